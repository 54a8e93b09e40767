/**
 * A synthetic Xen: memory of a small machine, filled by hand with just as much of Xen as the recovery reads, in the very
 * layouts of a profile that comes with ninelives. Healthy when made; a test breaks what it is about.
 *
 * Two CPUs, dom0 (PV, one vCPU) on CPU 0 and d1 (HVM, one vCPU) on CPU 1, both idle vCPUs, one credit2 run queue.
 * Both CPUs are in their guests until `enterXen` says otherwise.
 */
import { typeSites } from '../../src/layout/locks.js';
import { loadProfile, type Profile } from '../../src/layout/profile.js';
import { PAGE_SIZE, physical } from '../../src/x86/address.js';
import type { CpuRegisters } from '../../src/x86/registers.js';
import type { LapicState, View } from '../../src/x86/view.js';
import { Xen } from '../../src/xen/xen.js';
import { type FakeTables, writeDescriptorTables } from './fake-descriptors.js';
import { FakeMemory } from './fake-memory.js';
import { emptyRegisters } from './fake-registers.js';

export const FAKE_BUILD = '39a640e6f1412319235087391df9f1c5e13ae920';
let profile: Profile | undefined;
/** The profile of the synthetic Xen; loaded once, since that takes a second. */
export function fakeProfile(): Profile {
  profile ??= loadProfile(FAKE_BUILD);
  return profile;
}

const MIB = 1024 * 1024;
const SIZE = 32 * MIB;
const TABLES = MIB;
const IMAGE = { at: 4 * MIB, bytes: 8 * MIB };
const FRAME_TABLE = { at: 12 * MIB, bytes: 2 * MIB };
const PLACES = { at: 14 * MIB, bytes: 2 * MIB };
const HEAP = 16 * MIB;
export const GUEST_KERNEL = 0xffff_ffff_8100_0000n;
export const GUEST_PROCESS = 0x40_0000n;
/** Where in its page each piece of guest code has a SYSCALL; the saved rip stands behind it. */
const SYSCALL_AT = 0x20;
/** Handlers of softirqs in Xen 4.17. */
const SOFTIRQS = 11;
const HEAP_LIMIT = 15;
/** `irq_desc.status`: guests handle the line. */
const IRQ_GUEST = 0x10;

export interface FakeVcpu {
  readonly address: bigint;
  readonly unit: bigint;
  /** `struct csched2_unit`; 0 for idle vCPUs. */
  readonly svc: bigint;
  readonly domain: bigint;
}

export class FakeXen implements View {
  readonly cpuCount = 2;
  readonly physicalSize = SIZE;
  readonly profile = fakeProfile();
  readonly memory = new FakeMemory(SIZE, TABLES);
  readonly idle: readonly FakeVcpu[];
  readonly dom0: FakeVcpu;
  readonly hvm: FakeVcpu;
  /** `struct csched2_runqueue_data` */
  readonly runQueue: bigint;
  /** The one pool (`struct cpupool`) of all CPUs; domains have none. */
  readonly pool: bigint;
  readonly inService: number[][] = [[], []];
  readonly requested: number[][] = [[], []];
  readonly resources: readonly bigint[];
  /** Of each CPU. */
  readonly tables: readonly FakeTables[];
  readonly #vcpus: FakeVcpu[] = [];
  readonly #registers: CpuRegisters[] = [emptyRegisters(), emptyRegisters()];
  readonly #root: number;
  readonly #perCpu: readonly bigint[];
  readonly #stacks: readonly bigint[];
  #heap = HEAP;

  constructor() {
    const { memory } = this;
    const start = this.#constant('XEN_VIRT_START');
    this.#root = IMAGE.at + Number(this.symbol('idle_pg_table') - start);
    memory.mapLarge(this.#root, start, IMAGE.at, IMAGE.bytes);
    memory.mapLarge(this.#root, this.#constant('DIRECTMAP_VIRT_START'), 0, SIZE);
    memory.mapLarge(this.#root, this.#constant('FRAMETABLE_VIRT_START'), FRAME_TABLE.at, FRAME_TABLE.bytes);
    memory.mapLarge(this.#root, this.#constant('RDWR_MPT_VIRT_START'), PLACES.at, PLACES.bytes);
    this.#writeImage();
    const areaStart = this.symbol('__per_cpu_start');
    const areaSize = Number(this.symbol('__per_cpu_data_end') - areaStart);
    this.#perCpu = this.#forCpus(() => this.alloc(areaSize, PAGE_SIZE) - areaStart);
    const stackSize = Number(this.#constant('STACK_SIZE'));
    this.#stacks = this.#forCpus(() => this.alloc(stackSize, stackSize));
    this.#forCpus((cpu) => this.#writeCpu(cpu));
    this.tables = writeDescriptorTables(this);
    this.resources = this.#forCpus(() => this.new('sched_resource'));
    this.runQueue = this.#writeScheduler();
    this.pool = this.#writePool();
    const idleDomain = this.#newDomain(Number(this.#constant('DOMID_IDLE')), 'idle');
    this.idle = this.#forCpus((cpu) => this.#newVcpu(idleDomain, cpu, 'idle', cpu));
    for (const [cpu, vcpu] of this.idle.entries())
      this.put(this.symbol('idle_vcpu') + BigInt(8 * cpu), 8, vcpu.address);
    const pv = this.#newDomain(0, 'pv');
    const hvm = this.#newDomain(1, 'hvm');
    this.put(this.symbol('domain_list'), 8, pv);
    this.set('domain', pv, 'next_in_list', hvm);
    this.dom0 = this.#newVcpu(pv, 0, 'pv', 0);
    this.hvm = this.#newVcpu(hvm, 0, 'hvm', 1);
    this.#writeGuest();
    for (const registers of this.#registers) registers.cr3 = BigInt(this.#root);
    this.run(0, this.dom0);
    this.run(1, this.hvm);
    for (const [cpu, resource] of this.resources.entries()) {
      this.set('sched_resource', resource, 'sched_unit_idle', this.idle[cpu]!.unit);
    }
  }

  registers(cpu: number): CpuRegisters {
    return this.#registers[cpu]!;
  }

  lapic(cpu: number): LapicState {
    return { id: cpu, inService: this.inService[cpu]!, requested: this.requested[cpu]! };
  }

  page(frame: number): Uint8Array | undefined {
    return this.memory.page(frame);
  }

  glance(frame: number): Uint8Array | undefined {
    return this.memory.page(frame);
  }

  /** This machine's Xen, read anew: nothing is remembered of an earlier state. */
  xen(view: View = this): Xen {
    return Xen.at(this.profile, view, physical(this.#root));
  }

  symbol(name: string): bigint {
    return this.profile.symbol(name);
  }

  perCpu(name: string, cpu: number): bigint {
    return this.symbol(`per_cpu__${name}`) + this.#perCpu[cpu]!;
  }

  /** Address of `cpu_info`, which begins with the guest's frame. */
  frame(cpu: number): bigint {
    return this.#stacks[cpu]! + this.#constant('STACK_SIZE') - BigInt(this.profile.struct('cpu_info').size);
  }

  /** Zeroed memory on the heap: its address in the direct map. */
  alloc(size: number, align = 16): bigint {
    this.#heap = Math.ceil(this.#heap / align) * align;
    const at = this.#heap;
    this.#heap += size;
    if (this.#heap > SIZE) throw new Error('the synthetic machine is full');
    return this.#constant('DIRECTMAP_VIRT_START') + BigInt(at);
  }

  new(struct: string): bigint {
    return this.alloc(this.profile.struct(struct).size, 64);
  }

  put(address: bigint, size: 1 | 2 | 4 | 8, value: bigint | number): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
    this.putBytes(address, bytes.subarray(0, size));
  }

  putBytes(address: bigint, bytes: ArrayLike<number>): void {
    this.memory.write(this.#physical(address), bytes);
  }

  /** Writes a field, bit fields included. */
  set(struct: string, address: bigint, path: string, value: bigint | number): void {
    const { offset, size, bit } = this.profile.struct(struct).field(path);
    const at = address + BigInt(offset);
    if (bit === undefined) {
      this.put(at, size as 1 | 2 | 4 | 8, value);
      return;
    }
    const mask = ((1n << BigInt(bit.width)) - 1n) << BigInt(bit.offset);
    const old = BigInt(this.xen().memory.u16(at));
    this.put(at, 2, (old & ~mask) | ((BigInt(value) << BigInt(bit.offset)) & mask));
  }

  get(struct: string, address: bigint, path: string): bigint {
    const object = this.xen().object(struct, address);
    return object.layout.field(path).size === 8 ? object.u64(path) : BigInt(object.num(path));
  }

  /** Has `cpu` run `vcpu`, in its guest (or halted, when it is the idle one), with all metadata in agreement. */
  run(cpu: number, vcpu: FakeVcpu): void {
    const idle = this.idle.includes(vcpu);
    const before = this.get('cpu_info', this.frame(cpu), 'current_vcpu');
    const other = this.#vcpus.find(({ address }) => address === before);
    if (other !== undefined) this.#stop(other);
    this.set('cpu_info', this.frame(cpu), 'current_vcpu', vcpu.address);
    this.put(this.perCpu('curr_vcpu', cpu), 8, vcpu.address);
    this.set('vcpu', vcpu.address, 'is_running', 1);
    this.set('vcpu', vcpu.address, 'pause_flags', 0);
    this.set('vcpu', vcpu.address, 'processor', cpu);
    this.set('vcpu', vcpu.address, 'runstate.state', 0);
    this.set('sched_unit', vcpu.unit, 'is_running', 1);
    this.set('sched_unit', vcpu.unit, 'res', this.resources[cpu]!);
    for (let state = 0; state < 4; state++)
      this.set('sched_unit', vcpu.unit, `runstate_cnt[${state}]`, state === 0 ? 1 : 0);
    this.set('sched_resource', this.resources[cpu]!, 'curr', vcpu.unit);
    if (vcpu.svc !== 0n) this.set('csched2_unit', vcpu.svc, 'flags', 2);
    const registers = this.#registers[cpu]!;
    const halted = {
      rip: this.symbol('default_idle') + 0x11n,
      rsp: this.frame(cpu) - 0x40n,
      cs: 0xe008,
      rflags: 0x202,
    };
    const pv = { rip: GUEST_KERNEL, rsp: 0xffff_8880_0000_1000n, cs: 0xe033, rflags: 0x202 };
    const hvm = { rip: 0x10_0000n, rsp: 0x20_0000n, cs: 0x10, rflags: 0x202 };
    Object.assign(registers, idle ? halted : vcpu === this.dom0 ? pv : hvm);
  }

  /** Takes `cpu` into Xen: at `rip`, a symbol or an address, with its stack pointer `depth` bytes under the guest's frame. */
  enterXen(cpu: number, rip: string | bigint, depth = 0x200): void {
    const at = typeof rip === 'bigint' ? rip : this.symbol(rip);
    Object.assign(this.#registers[cpu]!, { rip: at, rsp: this.frame(cpu) - BigInt(depth), cs: 0xe008, rflags: 2 });
  }

  /** Writes registers into the guest's frame of `cpu`. */
  setFrame(cpu: number, fields: Readonly<Record<string, bigint | number>>): void {
    for (const [field, value] of Object.entries(fields)) this.set('cpu_user_regs', this.frame(cpu), field, value);
  }

  /** The frame of dom0's kernel behind a SYSCALL: hypercall `number` (0 to 63), or what it answered. */
  setHypercall(cpu: number, rax: bigint | number, from: bigint = GUEST_KERNEL): void {
    const rip = from + BigInt(SYSCALL_AT + 2);
    this.setFrame(cpu, { rax, rip, cs: 0xe033, ss: 0xe02b, entry_vector: 0x100, rflags: 0x202 });
  }

  /** Puts a return address into the slot under the guest's frame: the call that the entry code is making. */
  setSlot(cpu: number, value: bigint): void {
    this.put(this.frame(cpu) - 8n, 8, value);
  }

  /**
   * A trap taken inside Xen with the stack pointer at `rsp`: the CPU that failed. Returns the address of its frame.
   * @param top end of the frame, where the trap has a stack of its own
   */
  trap(
    cpu: number,
    fields: Readonly<Record<string, bigint | number>> & { readonly rsp: bigint },
    top: bigint = fields.rsp & ~15n,
  ): bigint {
    const frame = top - BigInt(this.profile.struct('cpu_user_regs').field('es').offset);
    this.put(frame - 8n, 8, this.symbol('handle_exception_saved') + 5n);
    const all = { cs: 0xe008, entry_vector: 14, ...fields };
    for (const [field, value] of Object.entries(all)) this.set('cpu_user_regs', frame, field, value);
    this.enterXen(cpu, 'show_execution_state', Number(this.frame(cpu) - frame) + 0x80);
    return frame;
  }

  /** Gives a domain a tree (`radix_tree_root`) of two levels with one entry. @returns the place of the entry */
  plantRadix(domain: bigint, field: string, index: number, entry: bigint): bigint {
    const [top, leaf] = [this.new('radix_tree_node'), this.new('radix_tree_node')];
    const slot = (node: bigint, n: number): bigint => this.fieldAt('radix_tree_node', node, 'slots') + BigInt(8 * n);
    this.set('radix_tree_node', top, 'height', 2);
    this.put(slot(top, index >> 6), 8, leaf);
    this.put(slot(leaf, index & 63), 8, entry);
    this.set('radix_tree_root', this.fieldAt('domain', domain, field), 'rnode', top | 1n);
    return slot(leaf, index & 63);
  }

  /** A table of this many interrupt lines, and the place of one of them. */
  newLine(irq: number, count: number): bigint {
    const { size } = this.profile.struct('irq_desc');
    const lines = this.alloc(count * size);
    this.put(this.symbol('irq_desc'), 8, lines);
    this.put(this.symbol('nr_irqs'), 4, count);
    return lines + BigInt(irq * size);
  }

  /** A line that dom0 handles as its interrupt `number`. @returns its action, dom0's `struct pirq`, and the place that leads to that */
  newGuestLine(irq: number, number: number): { action: bigint; pirq: bigint; slot: bigint } {
    const line = this.newLine(irq, irq + 1);
    // Its table of guests lies behind it.
    const action = this.alloc(this.profile.struct('irq_guest_action_t').size + 8);
    this.set('irq_desc', line, 'status', IRQ_GUEST);
    this.set('irq_desc', line, 'action', action);
    this.set('irq_guest_action_t', action, 'nr_guests', 1);
    this.put(this.fieldAt('irq_guest_action_t', action, 'guest'), 8, this.dom0.domain);
    const pirq = this.new('pirq');
    this.set('pirq', pirq, 'pirq', number);
    this.plantRadix(this.dom0.domain, 'arch.irq_pirq', irq, (BigInt(number) << 2n) | 2n);
    return { action, pirq, slot: this.plantRadix(this.dom0.domain, 'pirq_tree', number, pirq) };
  }

  newTimer(cpu: number, expires: number | bigint): bigint {
    const timer = this.new('timer');
    this.set('timer', timer, 'expires', expires);
    this.set('timer', timer, 'cpu', cpu);
    this.set('timer', timer, 'function', this.symbol('vcpu_singleshot_timer_fn'));
    this.set('timer', timer, 'status', 1);
    return timer;
  }

  /** Fills a CPU's heap with timers that are in order already. */
  setHeap(cpu: number, timers: readonly bigint[]): void {
    const heap = this.get('timers', this.perCpu('timers', cpu), 'heap');
    this.put(heap, 2, timers.length);
    for (const [n, timer] of timers.entries()) {
      this.put(heap + BigInt(8 * (n + 1)), 8, timer);
      this.set('timer', timer, 'heap_offset', n + 1);
      this.set('timer', timer, 'status', 3);
    }
  }

  /** Links a list: `head` first, then the nodes in order. */
  link(head: bigint, nodes: readonly bigint[] = []): void {
    const ring = [head, ...nodes];
    for (const [n, node] of ring.entries()) {
      const next = ring[(n + 1) % ring.length]!;
      this.put(node, 8, next);
      this.put(next + 8n, 8, node);
    }
  }

  fieldAt(struct: string, address: bigint, path: string): bigint {
    return address + BigInt(this.profile.struct(struct).field(path).offset);
  }

  #physical(address: bigint): number {
    const [image, frames, direct] = ['XEN_VIRT_START', 'FRAMETABLE_VIRT_START', 'DIRECTMAP_VIRT_START'].map((name) =>
      this.#constant(name),
    );
    if (address >= direct!) return Number(address - direct!);
    if (address >= frames!) return FRAME_TABLE.at + Number(address - frames!);
    if (address >= image!) return IMAGE.at + Number(address - image!);
    return PLACES.at + Number(address - this.#constant('RDWR_MPT_VIRT_START'));
  }

  #constant(name: string): bigint {
    return BigInt(this.profile.constant(name));
  }

  #forCpus<T>(make: (cpu: number) => T): T[] {
    return Array.from({ length: this.cpuCount }, (_, cpu) => make(cpu));
  }

  /** The build-id, and of the entry code what is recognised by decoding it. */
  #writeImage(): void {
    const note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 0x47, 0x4e, 0x55, 0];
    this.putBytes(this.symbol('__note_gnu_build_id_start'), [...note, ...Buffer.from(FAKE_BUILD, 'hex')]);
    this.#call(this.symbol('lstar_enter'), 'pv_hypercall');
    this.#call(this.symbol('switch_to_kernel'), 'create_bounce_frame');
    this.#call(this.symbol('test_guest_events'), 'create_bounce_frame');
    this.#call(this.symbol('process_softirqs'), 'do_softirq');
    this.#call(this.symbol('continue_pv_domain'), 'check_wakeup_from_wait');
    this.#call(this.symbol('handle_exception_saved'), 'do_page_fault');
    this.#call(this.symbol('common_interrupt'), 'do_IRQ');
    const resume = this.symbol('svm_asm_do_resume');
    this.putBytes(resume, [...CLGI, ...VMRUN, ...STGI]);
    this.#call(resume + 9n, 'svm_vmexit_handler');
    this.#call(resume + 14n, 'svm_intr_assist');
    this.#call(this.symbol('svm_vmexit_handler'), 'vcpu_wake');
    this.putBytes(this.symbol('default_idle') + 0x10n, [HLT]);
    this.put(this.symbol('max_page'), 8, SIZE / PAGE_SIZE);
    for (let n = 0; n < SOFTIRQS; n++)
      this.put(this.symbol('softirq_handlers') + BigInt(8 * n), 8, this.symbol('timer_softirq_action'));
  }

  #call(at: bigint, target: string): void {
    const distance = Number(this.symbol(target) - (at + 5n));
    this.putBytes(
      at,
      [0xe8, distance, distance >> 8, distance >> 16, distance >> 24].map((byte) => byte & 0xff),
    );
  }

  #writeCpu(cpu: number): void {
    this.put(this.symbol('stack_base') + BigInt(8 * cpu), 8, this.#stacks[cpu]!);
    this.put(this.symbol('__per_cpu_offset') + BigInt(8 * cpu), 8, this.#perCpu[cpu]!);
    this.set('cpu_info', this.frame(cpu), 'processor_id', cpu);
    this.set('cpu_info', this.frame(cpu), 'per_cpu_offset', this.#perCpu[cpu]!);
    this.put(this.perCpu('host_vmcb', cpu), 8, 0x1000);
    this.set('stubs', this.perCpu('stubs', cpu), 'addr', this.alloc(PAGE_SIZE, PAGE_SIZE));
    // No vector is a line's.
    this.putBytes(
      this.perCpu('vector_irq', cpu),
      [...Array(256)].flatMap(() => [0, 0, 0, 0x80]),
    );
    const timers = this.perCpu('timers', cpu);
    const heap = this.alloc(8 * (HEAP_LIMIT + 1));
    this.put(heap + 2n, 2, HEAP_LIMIT);
    this.set('timers', timers, 'heap', heap);
    this.link(this.fieldAt('timers', timers, 'inactive'));
    this.link(this.perCpu('tasklet_list', cpu));
    this.link(this.perCpu('softirq_tasklet_list', cpu));
    const callbacks = this.perCpu('rcu_data', cpu);
    for (const list of ['nxt', 'cur', 'done']) {
      this.set('rcu_data', callbacks, `${list}tail`, this.fieldAt('rcu_data', callbacks, `${list}list`));
    }
    this.#makeTimer(this.fieldAt('rcu_data', callbacks, 'idle_timer'), 'rcu_idle_timer_handler', callbacks, cpu);
  }

  /** As `init_timer` leaves it. */
  #makeTimer(timer: bigint, calls: string, data: bigint | number, cpu: number): void {
    for (const [field, value] of Object.entries({ function: this.symbol(calls), data, cpu, status: 1 }))
      this.set('timer', timer, field, value);
    this.link(this.fieldAt('timer', timer, 'inactive'));
  }

  #writeScheduler(): bigint {
    const name = this.alloc(16);
    this.putBytes(name, Buffer.from('credit2\0'));
    const scheduler = this.new('scheduler');
    const data = this.new('csched2_private');
    const queue = this.new('csched2_runqueue_data');
    this.set('scheduler', scheduler, 'opt_name', name);
    this.set('scheduler', scheduler, 'sched_data', data);
    this.link(this.fieldAt('csched2_private', data, 'rql'), [this.fieldAt('csched2_runqueue_data', queue, 'rql')]);
    this.link(this.fieldAt('csched2_private', data, 'sdom'));
    this.link(this.fieldAt('csched2_runqueue_data', queue, 'runq'));
    this.link(this.fieldAt('csched2_runqueue_data', queue, 'svc'));
    for (const [cpu, resource] of this.resources.entries()) {
      this.set('sched_resource', resource, 'scheduler', scheduler);
      this.set('sched_resource', resource, 'master_cpu', cpu);
      this.set('sched_resource', resource, 'granularity', 1);
      const pcpu = this.new('csched2_pcpu');
      this.set('csched2_pcpu', pcpu, 'rqd', queue);
      this.set('sched_resource', resource, 'sched_priv', pcpu);
      this.set('sched_resource', resource, 'schedule_lock', this.fieldAt('csched2_runqueue_data', queue, 'lock'));
      this.put(this.perCpu('sched_res', cpu), 8, resource);
      this.#makeTimer(this.fieldAt('sched_resource', resource, 's_timer'), 's_timer_fn', 0, cpu);
      for (const mask of [
        this.fieldAt('csched2_private', data, 'initialized'),
        this.fieldAt('csched2_runqueue_data', queue, 'active'),
      ])
        this.put(mask, 1, (1 << (cpu + 1)) - 1);
    }
    this.set('csched2_private', data, 'active_queues', 1);
    return queue;
  }

  /** Its scheduler's table is a copy of the definition among the constants, as Xen makes it. */
  #writePool(): bigint {
    const pool = this.new('cpupool');
    const scheduler = this.get('sched_resource', this.resources[0]!, 'scheduler');
    const definition = this.symbol('sched_credit2_def');
    this.set('scheduler', definition, 'opt_name', this.get('scheduler', scheduler, 'opt_name'));
    for (const [field, name] of [
      ['do_schedule', 'csched2_schedule'],
      ['wake', 'csched2_unit_wake'],
      ['sleep', 'csched2_unit_sleep'],
    ] as const) {
      for (const table of [definition, scheduler]) this.set('scheduler', table, field, this.symbol(name));
    }
    this.set('scheduler', scheduler, 'cpupool', pool);
    this.set('cpupool', pool, 'sched', scheduler);
    for (const field of ['cpu_valid', 'res_valid']) {
      const mask = this.new('cpumask');
      this.put(mask, 1, (1 << this.cpuCount) - 1);
      this.set('cpupool', pool, field, mask);
    }
    for (const resource of this.resources) this.set('sched_resource', resource, 'cpupool', pool);
    this.link(this.symbol('cpupool_list'), [this.fieldAt('cpupool', pool, 'list')]);
    this.put(this.symbol('n_cpupools'), 4, 1);
    return pool;
  }

  #newDomain(id: number, kind: 'pv' | 'hvm' | 'idle'): bigint {
    const domain = this.new('domain');
    this.set('domain', domain, 'domain_id', id);
    this.set('domain', domain, 'options', kind === 'hvm' ? 1 : 0);
    const actions = this.new('arch_csw');
    this.set('arch_csw', actions, 'tail', this.symbol(kind === 'hvm' ? 'svm_do_resume' : 'continue_pv_domain'));
    this.set('domain', domain, 'arch.ctxt_switch', actions);
    this.set('domain', domain, 'vcpu', this.alloc(64));
    this.#forgetHolders('domain', domain);
    return domain;
  }

  #newVcpu(domain: bigint, id: number, kind: 'pv' | 'hvm' | 'idle', cpu: number): FakeVcpu {
    const address = this.new('vcpu');
    const unit = this.new('sched_unit');
    const svc = kind === 'idle' ? 0n : this.new('csched2_unit');
    this.set('vcpu', address, 'vcpu_id', id);
    this.set('vcpu', address, 'domain', domain);
    this.set('vcpu', address, 'sched_unit', unit);
    this.set('vcpu', address, 'processor', cpu);
    this.set('vcpu', address, 'is_initialised', 1);
    this.set('vcpu', address, 'vcpu_info', this.alloc(PAGE_SIZE, PAGE_SIZE));
    this.set('sched_unit', unit, 'domain', domain);
    this.set('sched_unit', unit, 'vcpu_list', address);
    this.set('sched_unit', unit, 'unit_id', id);
    this.set('sched_unit', unit, 'res', this.resources[cpu]!);
    this.set('sched_unit', unit, 'priv', svc);
    if (svc !== 0n) {
      this.set('csched2_unit', svc, 'unit', unit);
      this.set('csched2_unit', svc, 'budget', 0x7fff_ffff_ffff_ffffn);
      this.set('csched2_unit', svc, 'rqd', this.runQueue);
      this.link(this.fieldAt('csched2_unit', svc, 'runq_elem'));
      const members = [...this.#vcpus.map((vcpu) => vcpu.svc).filter((other) => other !== 0n), svc];
      this.link(
        this.fieldAt('csched2_runqueue_data', this.runQueue, 'svc'),
        members.map((member) => this.fieldAt('csched2_unit', member, 'rqd_elem')),
      );
    }
    if (kind === 'idle') this.set('vcpu', address, 'arch.cr3', this.#root);
    if (kind === 'hvm') this.set('vcpu', address, 'arch.hvm.svm.vmcb', this.alloc(PAGE_SIZE, PAGE_SIZE));
    this.put(this.get('domain', domain, 'vcpu') + BigInt(8 * id), 8, address);
    this.set('domain', domain, 'max_vcpus', id + 1);
    this.#forgetHolders('vcpu', address);
    const vcpu = { address, unit, svc, domain };
    const previous = this.#vcpus.findLast((other) => other.domain === domain);
    if (previous === undefined) this.set('domain', domain, 'sched_unit_list', unit);
    else {
      this.set('vcpu', previous.address, 'next_in_list', address);
      this.set('sched_unit', previous.unit, 'next_in_list', unit);
    }
    this.#vcpus.push(vcpu);
    this.#stop(vcpu);
    return vcpu;
  }

  /** A vCPU that waits: blocked, and told so everywhere. */
  #stop(vcpu: FakeVcpu): void {
    this.set('vcpu', vcpu.address, 'is_running', 0);
    this.set('sched_unit', vcpu.unit, 'is_running', 0);
    if (vcpu.svc !== 0n) this.set('csched2_unit', vcpu.svc, 'flags', 0);
    const idle = vcpu.svc === 0n;
    this.set('vcpu', vcpu.address, 'pause_flags', idle ? 0 : 1);
    this.set('vcpu', vcpu.address, 'runstate.state', idle ? 1 : 2);
    for (let state = 0; state < 4; state++) {
      this.set('sched_unit', vcpu.unit, `runstate_cnt[${state}]`, state === (idle ? 1 : 2) ? 1 : 0);
    }
  }

  /** Memory-management locks that nobody holds name CPU -1. */
  #forgetHolders(struct: string, address: bigint): void {
    for (const site of holders(this.profile).get(struct) ?? []) {
      if (site.arm === undefined) this.set(site.kind, address + BigInt(site.offset), 'locker', -1);
    }
  }

  /** Code of dom0's kernel and of a process of its, each with a SYSCALL, in page tables of its own. */
  #writeGuest(): void {
    const root = this.memory.newTable();
    this.memory.write(root, this.memory.page(this.#root / PAGE_SIZE)!);
    for (const code of [GUEST_KERNEL, GUEST_PROCESS]) {
      const page = this.#physical(this.alloc(PAGE_SIZE, PAGE_SIZE));
      this.memory.write(page + SYSCALL_AT, [0x0f, 0x05]);
      this.memory.map(root, code, page, 'page');
    }
    this.set('vcpu', this.dom0.address, 'arch.cr3', root);
    this.set('vcpu', this.dom0.address, 'arch.guest_table', BigInt(root) >> 12n);
  }
}

const HLT = 0xf4;
const CLGI = [0x0f, 0x01, 0xdd];
const VMRUN = [0x0f, 0x01, 0xd8];
const STGI = [0x0f, 0x01, 0xdc];

const HOLDERS = new Map([
  ['mm_lock', 'mm_lock'],
  ['mm_rwlock', 'mm_rwlock'],
]);
let known: ReturnType<typeof typeSites<string>>['inStruct'] | undefined;
function holders(of: Profile) {
  known ??= typeSites(of, HOLDERS).inStruct;
  return known;
}
