import Foundation
import Testing

@Suite struct CheckTests {
  @Test("check has a line for every feature and says by its status whether dump and restore can work")
  func features() throws {
    let people = try swiftRestore("check")
    let json = try swiftRestore("check", "--json")
    #expect(people.status == json.status)
    let report = try json.json()
    let works = report["dump"] as? Bool == true && report["restore"] as? Bool == true
    #expect(json.status == (works ? 0 : 1))
    #expect(json.errors == "")
    #expect(people.errors.isEmpty == works)
    let features = try #require(report["features"] as? [[String: Any]])
    let capabilities = try #require(report["capabilities"] as? [[String: Any]])
    let lines = people.output.split(separator: "\n")
    #expect(lines.count == features.count + capabilities.count)
    for (line, feature) in zip(lines, features) {
      let name = try #require(feature["name"] as? String)
      #expect(line.hasPrefix(name + "  "))
      #expect(line.hasSuffix("yes") == (feature["available"] as? Bool))
    }
  }

  @Test("Without privileges check says what is missing and what to do", .enabled(if: geteuid() == 0))
  func unprivileged() throws {
    let checked = try swiftRestore("check", as: "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    #expect(checked.status == 1)
    #expect(checked.output.contains("CAP_SYS_ADMIN"))
    #expect(checked.errors.contains("restore cannot work here, it needs clone3 set_tid"))
    #expect(checked.errors.contains("Run as root"))
  }

  @Test("check --images plans the restore of a set, and makes nothing", .enabled(if: haveSamples))
  func images() throws {
    let good = try swiftRestore("check", "--images", samples + "/pipeline", "--file-validation", "none")
    #expect(good.status == 0, "\(good.errors)")
    #expect(good.output == "\(samples)/pipeline: ok\n")
    let json = try swiftRestore(
      "check", "--images", samples + "/pipeline", "--file-validation", "none", "--json"
    ).json()
    #expect(json["restorable"] as? Bool == true)
  }

  @Test("check --images names what cannot be restored", .enabled(if: haveSamples))
  func badImages() throws {
    try withCopy(of: "sleep") { folder in
      try FileManager.default.removeItem(atPath: folder + "/mm-24222.img")
      let checked = try swiftRestore("check", "-D", folder)
      #expect(checked.status == 1)
      #expect(checked.output == "")
      #expect(checked.errors.contains("mm-24222.img"))
    }
    let missing = try swiftRestore("check", "-D", "/nonexistent", "--json")
    #expect(missing.status == 1)
    #expect(try missing.json()["error"] != nil)
  }
}
