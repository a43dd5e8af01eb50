/// Programs whose feature swift-restore does not have yet. The list only ever gets shorter.
enum Pending {
  static let programs: Set<String> = []
}
