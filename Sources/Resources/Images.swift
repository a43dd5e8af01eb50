import Checkpoint
import Linux
import SystemPackage

extension Failure {
  /// What is wrong with an image, as the failure of a dump or restore.
  public init(_ error: ImageError) {
    if case .system(let call, let errno) = error.problem {
      let isMaking = call == "make the folder" || call == "create"
      self.init(error.description, advice: isMaking ? Self.adviceToWriter(errno) : Self.advice(errno), errno: errno)
    } else {
      self.init(error.description, advice: "The images are damaged or incomplete; dump again.")
    }
  }

  private static func adviceToWriter(_ errno: Errno) -> String {
    switch errno {
    case .noSuchFileOrDirectory, .notDirectory: "Give a folder with --images that is there, or can be made in one that is."
    default: advice(errno)
    }
  }

  private static func advice(_ errno: Errno) -> String {
    switch errno {
    case .notDirectory: "Give a folder with --images."
    case .tooManySymbolicLinkLevels: "It is a symbolic link; images are read from their own folder only."
    case .noSpace, .diskQuotaExceeded: "The images folder is full; make room or choose another with --images."
    case .noSuchFileOrDirectory: "Give the folder of a complete checkpoint with --images."
    case .permissionDenied, .readOnlyFileSystem: "Choose a folder that can be written with --images."
    default: ""
    }
  }
}

/// Runs `body` and says of an image's error what a user needs to know.
public func asFailure<T: ~Copyable>(_ body: () throws(ImageError) -> T) throws(Failure) -> T {
  do {
    return try body()
  } catch {
    throw Failure(error)
  }
}

extension ImageWriter {
  mutating func write(_ message: some ImageMessage) throws(Failure) {
    do { try append(message) } catch { throw Failure(error) }
  }

  mutating func write(raw bytes: [UInt8]) throws(Failure) {
    do { try append(raw: bytes) } catch { throw Failure(error) }
  }

  consuming func end() throws(Failure) {
    do { try finish() } catch { throw Failure(error) }
  }
}

extension ImageReader {
  mutating func read<Message: ImageMessage>(_ type: Message.Type) throws(Failure) -> Message? {
    do { return try next(type) } catch { throw Failure(error) }
  }

  mutating func bytes(_ count: Int) throws(Failure) -> [UInt8] {
    do { return try raw(count) } catch { throw Failure(error) }
  }
}
