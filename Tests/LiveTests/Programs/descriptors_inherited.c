// The parent has so many descriptors that they are not looked at one by one; those that its child has inherited are.
#include "inheritance.h"

int main(int argc, char **argv) { return inherit(argv, 100, 0, 0); }
