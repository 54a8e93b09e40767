/** A Xen in a frozen machine: its profile plus its memory, and the few ways to get from a name to an object. */
import { NinelivesError } from '../common/errors.js';
import type { Profile } from '../layout/profile.js';
import type { PhysicalAddress } from '../x86/address.js';
import type { View } from '../x86/view.js';
import { XenMemory } from './memory.js';
import { XenObject } from './object.js';
import { cpuStack } from './stack.js';

export class Xen {
  readonly profile: Profile;
  readonly memory: XenMemory;
  #perCpuOffsets: bigint[] | undefined;

  constructor(profile: Profile, memory: XenMemory) {
    this.profile = profile;
    this.memory = memory;
  }

  static at(profile: Profile, view: View, root: PhysicalAddress): Xen {
    const memory = new XenMemory(view, root);
    // Xen leaves out unused address bits from the direct map on machines with large holes (common/pdx.c).
    const compressed = memory.u32(profile.symbol('pfn_pdx_hole_shift')) !== 0;
    if (!compressed) memory.useDirectMap(BigInt(profile.constant('DIRECTMAP_VIRT_START')));
    return new Xen(profile, memory);
  }

  get view(): View {
    return this.memory.view;
  }

  /** CPUs of the machine; Xen numbers them as QEMU does. */
  get cpuCount(): number {
    return this.view.cpuCount;
  }

  /** The same Xen seen through another view of the same machine (a write overlay). */
  through(view: View): Xen {
    return new Xen(this.profile, this.memory.through(view));
  }

  /** Address of a global or static variable. */
  symbol(name: string): bigint {
    return this.profile.symbol(name);
  }

  /** Address of CPU `cpu`'s copy of the per-CPU variable that Xen's source calls `name`. */
  perCpu(name: string, cpu: number): bigint {
    return this.profile.symbol(`per_cpu__${name}`) + this.perCpuOffset(cpu);
  }

  perCpuOffset(cpu: number): bigint {
    this.#perCpuOffsets ??= Array.from({ length: this.cpuCount }, (_, n) => this.#findPerCpuOffset(n));
    const offset = this.#perCpuOffsets[cpu];
    if (offset === undefined) throw new NinelivesError('NL_INTERNAL', `there is no CPU ${cpu}`);
    return offset;
  }

  /**
   * Xen keeps it in a table and at the top of the CPU's stack. Where these differ, the right one is that which leads to data that
   * say they are this CPU's: its RCU data have its number and, as the argument of their timer, their own address.
   */
  #findPerCpuOffset(cpu: number): bigint {
    const listed = this.memory.u64(this.perCpuOffsetAt(cpu));
    const { info } = cpuStack(this, cpu);
    const noted = this.memory.isMapped(info.address) ? info.u64('per_cpu_offset') : listed;
    if (noted === listed) return listed;
    const isOwn = (offset: bigint): boolean => {
      const rcu = this.object('rcu_data', this.profile.symbol('per_cpu__rcu_data') + offset);
      const readable = this.memory.isMapped(rcu.at('cpu')) && this.memory.isMapped(rcu.at('idle_timer.data') + 7n);
      return readable && rcu.num('cpu') === cpu && rcu.u64('idle_timer.data') === rcu.address;
    };
    return !isOwn(listed) && isOwn(noted) ? noted : listed;
  }

  /** Where Xen's table has CPU `cpu`'s offset. */
  perCpuOffsetAt(cpu: number): bigint {
    return this.profile.symbol('__per_cpu_offset') + BigInt(8 * cpu);
  }

  /** CPU `cpu`'s softirq word and interrupt counts: its element of `irq_stat`. */
  irqStat(cpu: number): XenObject {
    return this.object('irq_cpustat_t', this.symbol('irq_stat') + BigInt(cpu * this.sizeOf('irq_cpustat_t')));
  }

  /** The structure of type `struct` at `address`. */
  object(struct: string, address: bigint): XenObject {
    return new XenObject(this.memory, this.profile.struct(struct), address);
  }

  /** Offset of a member inside its structure, for `container_of`. */
  offsetOf(struct: string, path: string): bigint {
    return BigInt(this.profile.struct(struct).field(path).offset);
  }

  sizeOf(struct: string): number {
    return this.profile.struct(struct).size;
  }
}
