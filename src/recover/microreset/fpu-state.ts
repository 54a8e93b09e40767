/**
 * The floating-point unit is loaded when a vCPU first uses it: until then CR0.TS is set, so that the use traps
 * (Xen 4.17, arch/x86/i387.c). A thread dropped between clearing TS and noting that the registers are the vCPU's
 * (`fpu_dirtied`) would let the vCPU calculate with whatever is in them, and lose what it calculates. TS is set again;
 * the vCPU's saved registers are good, since nothing was noted as changed.
 */
import { CR0_TS } from '../../x86/registers.js';
import type { Step } from '../step.js';

export const fpuState: Step = {
  name: 'fpu-state',
  removes: 'floating-point registers caught while they were being loaded or saved',
  source: 'ours; Xen 4.17 arch/x86/i387.c',
  run({ plan, abandoned }) {
    for (const { cpu, current, loaded, registers } of abandoned) {
      if (current.domain.kind === 'idle' || current.address !== loaded.address) continue;
      if (current.object.bool('fpu_dirtied') || (registers.cr0 & CR0_TS) !== 0n) continue;
      const reason = `the floating-point registers of CPU ${cpu} are not those of ${current.name}`;
      plan.setRegisters(cpu, { cr0: registers.cr0 | CR0_TS }, reason);
      plan.found(reason);
    }
  },
};
