/** How steps write a plan: every change goes to the overlay and is appended, with its step and reason. */
import { virtual } from '../x86/address.js';
import type { CpuRegisters } from '../x86/registers.js';
import type { View } from '../x86/view.js';
import type { XenObject } from '../xen/object.js';
import type { Xen } from '../xen/xen.js';
import { Overlay } from './overlay.js';
import type { Edit, Problem } from './plan.js';

export class PlanBuilder {
  /** Xen as it will be once the plan so far has been committed. */
  readonly xen: Xen;
  readonly #overlay: Overlay;
  readonly #edits: Edit[] = [];
  readonly #problems: Problem[] = [];
  #step = '';
  #findings: string[] = [];
  #lackedBefore = 0;

  constructor(xen: Xen) {
    this.#overlay = new Overlay(xen.view);
    this.xen = xen.through(this.#overlay);
  }

  get edits(): readonly Edit[] {
    return this.#edits;
  }

  get problems(): readonly Problem[] {
    return this.#problems;
  }

  get view(): View {
    return this.#overlay;
  }

  /** Begins a step; what follows is recorded under its name. Returns the findings it will fill. */
  begin(step: string): readonly string[] {
    this.#step = step;
    this.#findings = [];
    this.beginPart();
    return this.#findings;
  }

  /** What was missing before says nothing about what is looked at from now on. */
  beginPart(): void {
    this.#lackedBefore = this.#overlay.lacked ?? 0;
  }

  /**
   * Whether this step, or part of one, asked for a page that a capsule does not have: it was written when nobody read that page.
   * Then what was seen is no damage.
   */
  get lacksPages(): boolean {
    return (this.#overlay.lacked ?? 0) > this.#lackedBefore;
  }

  /** A line for the timeline: what this step found. */
  found(text: string): void {
    this.#findings.push(text);
  }

  /** Something that forbids the commit. @param step whose it is, when not the one that has begun */
  problem(message: string, step: string = this.#step): void {
    if (this.lacksPages) this.found(`cannot be judged by this capsule: ${message}`);
    else this.#problems.push({ step, message });
  }

  /** Writes an integer of `size` bytes where it differs from what is there; says whether it did. */
  write(address: bigint, size: 1 | 2 | 4 | 8, value: bigint | number, reason: string): boolean {
    // Nearly always it is there already: no bytes are made then.
    if (this.#isThere(address, size, value)) return false;
    const after = new Uint8Array(size);
    const view = new DataView(after.buffer);
    const unsigned = BigInt.asUintN(8 * size, BigInt(value));
    if (size === 8) view.setBigUint64(0, unsigned, true);
    else if (size === 4) view.setUint32(0, Number(unsigned), true);
    else if (size === 2) view.setUint16(0, Number(unsigned), true);
    else view.setUint8(0, Number(unsigned));
    return this.writeBytes(address, after, reason);
  }

  #isThere(address: bigint, size: 1 | 2 | 4 | 8, value: bigint | number): boolean {
    const { memory } = this.xen;
    if (size === 8) return memory.u64(address) === BigInt.asUintN(64, BigInt(value));
    const there = size === 4 ? memory.u32(address) : size === 2 ? memory.u16(address) : memory.u8(address);
    return there === (typeof value === 'number' ? value : Number(BigInt.asUintN(8 * size, value)));
  }

  /** Writes bytes where they differ from what is there; may cross pages. Says whether anything differed. */
  writeBytes(address: bigint, after: Uint8Array, reason: string): boolean {
    const before = this.xen.memory.bytes(address, after.length);
    if (before.every((byte, i) => byte === after[i])) return false;
    this.xen.memory.eachPart(address, after.length, (at, from, to) =>
      this.#overlay.write(at, after.subarray(from, to)),
    );
    this.#edits.push({ kind: 'memory', step: this.#step, reason, address: virtual(address), before, after });
    return true;
  }

  /** Makes a list (`struct list_head`) of these nodes, in this order; of none, an empty one. */
  linkList(head: bigint, nodes: Iterable<bigint>, reason: string): void {
    const ring = [head, ...nodes];
    for (const [n, node] of ring.entries()) {
      const next = ring[(n + 1) % ring.length]!;
      this.write(node, 8, next, reason);
      this.write(next + 8n, 8, node, reason);
    }
  }

  /** Takes a CPU into a `cpumask_t`, or out of it; says whether it was the other way round. */
  setInMask(mask: bigint, cpu: number, isIn: boolean, reason: string): boolean {
    const byte = mask + BigInt(cpu >> 3);
    const bit = 1 << (cpu & 7);
    const before = this.xen.memory.u8(byte);
    return this.write(byte, 1, isIn ? before | bit : before & ~bit, reason);
  }

  /** Writes text or read-only data: other than data, it has to be translated anew. Must not cross a page boundary. */
  writeText(address: bigint, after: Uint8Array, reason: string): void {
    const before = this.xen.memory.bytes(address, after.length);
    this.#overlay.write(this.xen.memory.physicalAddress(address), after);
    this.#edits.push({ kind: 'text', step: this.#step, reason, address: virtual(address), before, after });
  }

  /** Writes a field of a structure, of whatever size the layout gives it. Bit fields keep their neighbours. */
  set(object: XenObject, path: string, value: bigint | number, reason: string): boolean {
    const field = object.layout.field(path);
    const address = object.address + BigInt(field.offset);
    const size = field.size as 1 | 2 | 4 | 8;
    if (field.bit === undefined) return this.write(address, size, value, reason);
    const mask = ((1n << BigInt(field.bit.width)) - 1n) << BigInt(field.bit.offset);
    const bytes = this.xen.memory.bytes(address, size);
    let raw = 0n;
    for (let i = size - 1; i >= 0; i--) raw = (raw << 8n) | BigInt(bytes[i]!);
    return this.write(address, size, (raw & ~mask) | ((BigInt(value) << BigInt(field.bit.offset)) & mask), reason);
  }

  /** Sends a CPU elsewhere: registers it will have when the machine resumes. */
  setRegisters(cpu: number, set: Partial<CpuRegisters>, reason: string): void {
    this.#overlay.setRegisters(cpu, set);
    this.#edits.push({ kind: 'registers', step: this.#step, reason, cpu, set });
  }

  /** Has `cpu` call a function of Xen, interrupts off, before it goes where the plan sends it. */
  call(cpu: number, functionName: string, args: readonly bigint[], reason: string, offset = 0n): void {
    const call = { kind: 'call', step: this.#step, reason, cpu, function: functionName, arguments: args } as const;
    this.#edits.push(offset === 0n ? call : { ...call, offset });
  }
}
