/** Carries out a checked plan on the frozen machine: memory through the RAM mapping, text and registers through the stub. */
import { unreachable } from '../common/errors.js';
import type { Machine } from '../machine/machine.js';
import type { Edit, Plan } from '../recover/plan.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { XenMemory } from '../xen/memory.js';

/**
 * Memory edits are applied in order. Calls are not carried out here: the step that places CPUs has turned them into frames on
 * their stacks.
 * @returns what is left to write, with the resumption: register edits, merged by CPU, the last one wins
 * @throws NL_STUB_LOST, NL_STUB_ERROR; the machine stays frozen then
 */
export async function commit(
  machine: Machine,
  memory: XenMemory,
  plan: Plan,
): Promise<ReadonlyMap<number, Partial<CpuRegisters>>> {
  const registers = new Map<number, Partial<CpuRegisters>>();
  for (const edit of plan.edits) {
    switch (edit.kind) {
      case 'memory':
        memory.eachPart(edit.address, edit.after.length, (at, from, to) =>
          machine.ram.write(at, edit.after.subarray(from, to)),
        );
        break;
      case 'text':
        await writeText(machine, memory, edit);
        break;
      case 'registers':
        registers.set(edit.cpu, { ...registers.get(edit.cpu), ...edit.set });
        break;
      case 'call':
        break;
      default:
        unreachable(edit);
    }
  }
  return registers;
}

/** By physical address: a CPU that runs an HVM guest maps none of Xen's text. */
async function writeText(machine: Machine, memory: XenMemory, edit: Extract<Edit, { kind: 'text' }>): Promise<void> {
  const parts: Promise<void>[] = [];
  memory.eachPart(edit.address, edit.after.length, (at, from, to) =>
    parts.push(machine.writePhysicalStub(at, edit.after.subarray(from, to))),
  );
  await Promise.all(parts);
}
