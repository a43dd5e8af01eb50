// The child has so many descriptors that they are not looked at one by one; those that its parent has bequeathed to it are.
#include "inheritance.h"

int main(int argc, char **argv) { return inherit(argv, 0, 200, 1); }
