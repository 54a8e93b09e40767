/** Interrupt lines, and those that belong to guests (Xen 4.17, arch/x86/irq.c). */
import type { Domain } from './domains.js';
import type { XenObject } from './object.js';
import { radixEntry, radixNumber, radixSlot, radixSlots } from './radix-tree.js';
import { WORD_SIZE, WordTable } from './words.js';
import type { Xen } from './xen.js';

/** `irq_desc.status`: guests handle the line, so its action is an `irq_guest_action_t`. */
const IRQ_GUEST = 1 << 4;
/** More lines than that are no table of lines. */
const LINES_LIMIT = 4096;
/** One slot for each vector that Xen gives out (Xen 4.17, irq_vectors.h: NR_DYNAMIC_VECTORS), and the last one. */
const PENDING_EOIS = 208;
const COUNT_SLOT = PENDING_EOIS - 1;
/** Where in a slot the vector stands: `irq` has 23 bits, `ready` one, and `vector` the last eight. */
const VECTOR_BYTE = 3n;

export interface GuestLine {
  readonly irq: number;
  /** `struct irq_desc` */
  readonly line: XenObject;
  /** `irq_guest_action_t` */
  readonly action: XenObject;
}

/** Where the table of lines begins, and how many there are; `undefined` where the pointer to it leads nowhere. */
export function lineTable(xen: Xen): { readonly table: bigint; readonly count: number } | undefined {
  const table = xen.memory.u64(xen.symbol('irq_desc'));
  return xen.memory.isMapped(table) ? { table, count: xen.memory.u32(xen.symbol('nr_irqs')) } : undefined;
}

/** Why lines cannot be reached; `undefined` when all can. */
export function lineTableDefect(xen: Xen): string | undefined {
  const count = xen.memory.u32(xen.symbol('nr_irqs'));
  if (count > LINES_LIMIT) return `there are ${count} of them`;
  return count === 0 || lineTable(xen) !== undefined ? undefined : 'the pointer to their table leads nowhere';
}

/** `struct irq_desc` of a line; `undefined` where there is none. */
export function lineOf(xen: Xen, irq: number): XenObject | undefined {
  const known = lineTable(xen);
  if (known === undefined || irq >= Math.min(known.count, LINES_LIMIT)) return undefined;
  return xen.object('irq_desc', known.table + BigInt(irq * xen.sizeOf('irq_desc')));
}

/** All lines. */
export function* lines(xen: Xen): Generator<Pick<GuestLine, 'irq' | 'line'>> {
  const { table, count } = lineTable(xen) ?? { table: 0n, count: 0 };
  const size = xen.sizeOf('irq_desc');
  for (let irq = 0; irq < Math.min(count, LINES_LIMIT); irq++)
    yield { irq, line: xen.object('irq_desc', table + BigInt(irq * size)) };
}

/**
 * Numbers of the lines that a test picks by one of their fields. There are 1664 lines on the box, nearly all unused, and they are looked
 * through several times for each plan: no object is made for any.
 * @param field a member of `struct irq_desc`
 * @param is the test, of the field's first word, of the one behind it, and of what reads others of the line by their offset
 * @throws NL_UNMAPPED
 */
export function linesWhere(
  xen: Xen,
  field: string,
  is: (word: number, next: number, inLine: (offset: number) => number) => boolean,
): number[] {
  const { table, count } = lineTable(xen) ?? { table: 0n, count: 0 };
  if (count > LINES_LIMIT) return [];
  const size = xen.sizeOf('irq_desc');
  const words = new WordTable(xen.memory, table);
  const found: number[] = [];
  const offset = Number(xen.offsetOf('irq_desc', field));
  let line = 0;
  const inLine = (at: number): number => words.at(line + at);
  for (let irq = 0; irq < count; irq++, line += size) {
    const at = line + offset;
    if (is(words.at(at), words.at(at + WORD_SIZE), inLine)) found.push(irq);
  }
  return found;
}

/** Controllers of lines (`struct hw_interrupt_type`): each is a variable of Xen's image. By lower half of the address: the upper one. */
const CONTROLLERS = new WeakMap<Xen['profile'], ReadonlyMap<number, number>>();

function lineControllers({ profile }: Xen): ReadonlyMap<number, number> {
  let known = CONTROLLERS.get(profile);
  if (known === undefined) {
    const names = profile.variableNames.filter((name) => {
      const type = profile.variableType(name);
      return type.kind === 'struct' && type.name === 'hw_interrupt_type' && profile.hasSymbol(name);
    });
    known = new Map(names.map((name) => halves(profile.symbol(name))));
    CONTROLLERS.set(profile, known);
  }
  return known;
}

const halves = (value: bigint): [number, number] => [Number(value & 0xffff_ffffn), Number(value >> 32n)];

/** Whether there is a controller of lines at this address. */
export function isLineController(xen: Xen, address: bigint): boolean {
  const [low, high] = halves(address);
  return lineControllers(xen).get(low) === high;
}

/**
 * Numbers of the lines whose controller (`irq_desc.handler`) is none. Only a line that was never made has none by right, and that has no
 * masks of CPUs either (Xen 4.17, common/irq.c: init_one_irq_desc).
 */
export function linesWithoutController(xen: Xen): number[] {
  const controllers = lineControllers(xen);
  const mask = Number(xen.offsetOf('irq_desc', 'arch.cpu_mask'));
  return linesWhere(xen, 'handler', (low, high, inLine) => {
    if (low === 0 && high === 0) return inLine(mask) !== 0 || inLine(mask + WORD_SIZE) !== 0;
    return controllers.get(low) !== high;
  });
}

/** The lines that guests handle, by what they say themselves. */
export function* linesOfGuests(xen: Xen): Generator<Pick<GuestLine, 'irq' | 'line'>> {
  for (const irq of linesWhere(xen, 'status', (status) => (status & IRQ_GUEST) !== 0))
    yield { irq, line: lineOf(xen, irq)! };
}

/** The lines that guests handle. */
export function* guestLines(xen: Xen): Generator<GuestLine> {
  for (const { irq, line } of linesOfGuests(xen)) {
    const action = line.u64('action');
    if (xen.memory.isMapped(action)) yield { irq, line, action: xen.object('irq_guest_action_t', action) };
  }
}

/** `irq_guest_action_t.ack_type`: whether and how guests acknowledge (Xen 4.17, arch/x86/irq.c). */
export const ACK_TYPE = { none: 0, unmask: 1, eoi: 2 } as const;
/** Guests that can share a line. */
const GUESTS_LIMIT = 7;

/** `struct pirq` of every guest of a line: what the guest sees of it. @throws NL_UNMAPPED */
export function pirqsOf(xen: Xen, line: GuestLine): XenObject[] {
  return guestsOf(xen, line).map((address) => {
    const domain = xen.object('domain', address);
    const tree = xen.object('radix_tree_root', domain.at('pirq_tree'));
    return xen.object('pirq', radixEntry(xen, tree, pirqNumber(xen, domain, line.irq)));
  });
}

/** `struct domain` of every guest of a line. */
const guestsOf = (xen: Xen, { action }: GuestLine): bigint[] =>
  Array.from({ length: Math.min(action.num('nr_guests'), GUESTS_LIMIT) }, (_, n) =>
    xen.memory.u64(action.at('guest'), 8 * n),
  );

/** How many domains stand where a line's guests are listed, one after the other from the first place on. */
export function listedGuests(xen: Xen, { action }: GuestLine, domains: readonly Domain[]): number {
  const known = new Set(domains.map(({ address }) => address));
  let count = 0;
  while (count < GUESTS_LIMIT && known.has(xen.memory.u64(action.at('guest'), 8 * count))) count++;
  return count;
}

/** Which of its interrupts a line is to a guest; 0 where it is none. */
const pirqNumber = (xen: Xen, domain: XenObject, irq: number): number =>
  radixNumber(radixEntry(xen, xen.object('radix_tree_root', domain.at('arch.irq_pirq')), irq));

/** The places of a domain's tree of interrupts that lead to a `struct pirq` each, by its number. @throws NL_UNMAPPED */
export const pirqSlots = (xen: Xen, domain: XenObject): Map<number, bigint> =>
  new Map(radixSlots(xen, xen.object('radix_tree_root', domain.at('pirq_tree'))));

/** Whether a `struct pirq` of this number is there: each has its own. */
export const isPirq = (xen: Xen, address: bigint, number: number): boolean =>
  address % 4n === 0n && xen.memory.isMapped(address) && xen.object('pirq', address).num('pirq') === number;

/** What is wrong with how Xen gets from a line to what its guests see of it. @throws NL_UNMAPPED */
export function guestLineDefect(xen: Xen, line: GuestLine, domains: readonly Domain[]): string | undefined {
  if (line.action.num('nr_guests') > GUESTS_LIMIT) return 'has more guests than there can be';
  for (const address of guestsOf(xen, line)) {
    if (!domains.some((domain) => domain.address === address)) return 'has a guest that is no domain';
    const domain = xen.object('domain', address);
    const number = pirqNumber(xen, domain, line.irq);
    const slot = number > 0 ? radixSlot(xen, xen.object('radix_tree_root', domain.at('pirq_tree')), number) : undefined;
    if (slot === undefined) return 'is no interrupt of its guest';
    if (!isPirq(xen, xen.memory.u64(slot), number)) return `does not lead to interrupt ${number} of its guest`;
  }
  return undefined;
}

export interface PendingEoi {
  readonly irq: number;
  readonly vector: number;
  /** The guest is done with it. */
  readonly ready: boolean;
  readonly address: bigint;
}

/**
 * Interrupts that a CPU delivered to guests and acknowledges when they are done, oldest first. The array's last slot holds how
 * many there are in the place of a vector.
 */
export function pendingEois(xen: Xen, cpu: number): readonly PendingEoi[] {
  const count = Math.min(slotOf(xen, cpu, COUNT_SLOT).num('vector'), COUNT_SLOT);
  return Array.from({ length: count }, (_, n) => {
    const entry = slotOf(xen, cpu, n);
    return { irq: entry.num('irq'), vector: entry.num('vector'), ready: entry.bool('ready'), address: entry.address };
  });
}

/** Vectors that a CPU accepted and did not acknowledge, although it waits for no guest to be done with them. */
export function unacknowledged(xen: Xen, cpu: number): number[] {
  const noted = new Set(pendingEois(xen, cpu).map(({ vector }) => vector));
  return xen.view.lapic(cpu).inService.filter((vector) => !noted.has(vector));
}

/** Where a CPU counts them, in one byte. */
export const pendingEoiCount = (xen: Xen, cpu: number): bigint => slotOf(xen, cpu, COUNT_SLOT).address + VECTOR_BYTE;

/** What has to be written for a CPU to have these of its notes and no others. */
export function pendingEoiWrites(
  xen: Xen,
  cpu: number,
  kept: readonly PendingEoi[],
): { readonly address: bigint; readonly bytes: Uint8Array }[] {
  const size = xen.sizeOf('pending_eoi');
  return [
    ...kept.map((note, n) => ({ address: slotOf(xen, cpu, n).address, bytes: xen.memory.bytes(note.address, size) })),
    { address: pendingEoiCount(xen, cpu), bytes: Uint8Array.of(kept.length) },
  ];
}

function slotOf(xen: Xen, cpu: number, n: number): XenObject {
  return xen.object('pending_eoi', xen.perCpu('pending_eoi', cpu) + BigInt(n * xen.sizeOf('pending_eoi')));
}
