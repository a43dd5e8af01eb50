import CLinux
import Linux
import Resources
import Tracee

extension Construction {
  /// Maps and fills the memory of tasks, all at the same time. A task whose children share pages with it gets its memory before
  /// they are born, the others when all are born, so that forks stay cheap, or when they are born themselves (``HeadStart``).
  ///
  /// What `andThen` appends is done by the same programs.
  func giveMemory(
    _ tasks: [RestoredTask], andThen: (RestoredTask, inout ProgramSequence) throws(Failure) -> Void = { _, _ in }
  ) throws(Failure) {
    // Large tasks are awake from when they are filled until they are cut.
    let size = plan.rests ? Self.company : max(tasks.count, 1)
    for first in stride(from: 0, to: tasks.count, by: size) {
      try giveMemory(tasks[first..<min(first + size, tasks.count)], andThen)
    }
  }

  /// So many are looked at together, if tasks rest.
  private static let company = 64

  private func giveMemory(
    _ tasks: ArraySlice<RestoredTask>, _ andThen: (RestoredTask, inout ProgramSequence) throws(Failure) -> Void
  ) throws(Failure) {
    var filled = try fillLarge(tasks)
    try run(Array(tasks)) { (task) throws(Failure) -> Work in
      let slot = area.slots[plan.slot(of: task)]
      var sequence = filled.removeValue(forKey: slot.address) ?? self.sequence(in: slot)
      try wake(task)
      defer { plan.rest(task) }
      try compose(task, &sequence)
      try andThen(task, &sequence)
      return (task.description, sequence)
    }
    for task in tasks {
      try task.forwardVDSO(to: vdsoAddress(of: task))
      task.hasMemory = true
    }
  }

  func compose(_ task: RestoredTask, _ sequence: inout ProgramSequence) throws(Failure) {
    // Whose memory it was born with; brothers have the same.
    if let donor = task.donor {
      if let last = self.donor, last !== donor { plan.rest(last) }
      try wake(donor)
      self.donor = donor
    }
    let vdso = try moveVDSO(task, &sequence)
    try AddressSpace.restore(task, sparing: spared(vdso), restore, &sequence)
  }

  /// What a task needs nobody else for, once it has its mappings. In a table that is shared others look for free numbers too.
  func equip(_ task: RestoredTask, _ sequence: inout ProgramSequence) throws(Failure) {
    task.isEquipped = true
    AddressSpace.finish(task, &sequence)
    try AddressSpace.restoreFields(task, restore, &sequence)
    try FileSystemContext.restore(task, restore, &sequence)
    if !plan.sharesFiles(task) { try DescriptorTable.restore(task, restore, &sequence) }
  }

  /// What no task may unmap.
  private func spared(_ vdso: Range<UInt64>) -> [Range<UInt64>] { [area.address..<(plan.detourAddress), vdso] }

  /// One large task is work for more than one processor. What is begun here, by the address of the slot, is to be continued.
  private func fillLarge(_ tasks: ArraySlice<RestoredTask>) throws(Failure) -> [UInt64: ProgramSequence] {
    for task in Filling.candidates(tasks, restore) {
      try wake(task)
      if let donor = task.donor { try wake(donor) }
    }
    let large = Filling.prepare(tasks, restore)
    if large.isEmpty { return [:] }
    try run(large) { (task) throws(Failure) -> Work in
      var sequence = self.sequence(in: area.slots[plan.slot(of: task)])
      let vdso = try moveVDSO(task, &sequence)
      try AddressSpace.reserve(task, sparing: spared(vdso), hasChildren: areAllBorn, restore, &sequence)
      return (task.description, sequence)
    }
    let companion = Companion()
    var begun: [UInt64: ProgramSequence] = [:]
    for task in large {
      let slot = area.slots[plan.slot(of: task)]
      var sequence = self.sequence(in: slot)
      try about(task.description) { () throws(Failure) in
        try task.filling?.run(task, in: slot, restore, companion, mayMove: areAllBorn, &sequence)
      }
      begun[slot.address] = sequence
    }
    return begun
  }

  /// Where a task has this kernel's vDSO: above its data.
  func vdsoAddress(of task: RestoredTask) -> UInt64 {
    let starts = stubVDSO.map(\.lowerBound)
    return task.vdsoBase + (starts.max() ?? 0) - (starts.min() ?? 0)
  }

  /// The stub's vDSO and its data go to where the task had its own. The kernel follows (arch/x86/entry/vdso/vma.c: vdso_mremap).
  private func moveVDSO(_ task: RestoredTask, _ sequence: inout ProgramSequence) throws(Failure) -> Range<UInt64> {
    let old = stubVDSO.sorted { $0.lowerBound < $1.lowerBound }
    guard let first = old.first, let last = old.last else {
      throw Failure("\(task.description): a stub has no vDSO", advice: "Boot without vdso=0.")
    }
    let size = last.upperBound - first.lowerBound
    var target = plan.besideAddress
    if !task.hasForeignVDSO, let vdso = task.vdso.vdso {
      target = task.vdso.vvar?.lowerBound ?? vdso.lowerBound
      guard size == vdso.upperBound - target else {
        throw Failure(
          "\(task.description): the vDSO and its data have \(vdso.upperBound - target) bytes, here they have \(size) (vdso-patch)",
          advice: "Restore on the kernel that the tree was dumped on.")
      }
    }
    func move(from: UInt64, to: UInt64) {
      for part in old {
        let offset = part.lowerBound - first.lowerBound
        let length = part.upperBound - part.lowerBound
        sequence.current.call(
          __NR_mremap, Argument(from + offset), Argument(length), Argument(length),
          3 /* MREMAP_MAYMOVE | MREMAP_FIXED */, Argument(to + offset), for: "moving the vDSO to", to)
      }
    }
    if task.vdsoBase != target {
      // A mapping cannot move onto itself: it takes a detour.
      move(from: task.vdsoBase, to: plan.detourAddress)
      move(from: plan.detourAddress, to: target)
      task.vdsoBase = target
    }
    return target..<(target + size)
  }
}
