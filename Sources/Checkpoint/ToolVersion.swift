/// Which swift-restore this is.
public enum ToolVersion {
  public static let number = "0.1.0"
  /// As images say it (inventory_entry.tool_version).
  static let name = "swift-restore " + number
}
