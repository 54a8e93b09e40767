/**
 * A capsule is a saved view: registers, interrupt controllers and every page that the recovery read. It replays offline,
 * bit for bit, with no QEMU: bug report, regression test and teaching example in one file.
 *
 * Format: gzip of one line of JSON (the header) followed by the pages in the header's order, 4096 bytes each.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import type { Failure } from '../detect/failure.js';
import { loadProfile } from '../layout/profile.js';
import { PAGE_SIZE, physical } from '../x86/address.js';
import { type CpuRegisters, GENERAL_REGISTERS } from '../x86/registers.js';
import type { LapicState, View } from '../x86/view.js';
import { attempt } from '../xen/damage.js';
import { readEntryFacts } from '../xen/entry.js';
import { Xen } from '../xen/xen.js';
import { type Mechanism, makePlan } from './mechanism.js';

const FORMAT = 'ninelives capsule 1';

/** Records which pages a recovery reads, so that they can be kept. */
export class RecordingView implements View {
  readonly #base: View;
  /** As they were when first looked at: a plan never writes to a view, so that is how they were at the freeze. */
  readonly #pages = new Map<number, Uint8Array | undefined>();
  #sealed: boolean = false;

  constructor(base: View) {
    this.#base = base;
  }

  get cpuCount(): number {
    return this.#base.cpuCount;
  }

  get physicalSize(): number {
    return this.#base.physicalSize;
  }

  get lacked(): number | undefined {
    return this.#base.lacked;
  }

  registers(cpu: number): Readonly<CpuRegisters> {
    return this.#base.registers(cpu);
  }

  lapic(cpu: number): LapicState {
    return this.#base.lapic(cpu);
  }

  page(frame: number): Uint8Array | undefined {
    if (this.#pages.has(frame)) return this.#pages.get(frame);
    const page = this.#base.page(frame);
    this.#pages.set(frame, page === undefined ? undefined : Uint8Array.from(page));
    return this.#pages.get(frame);
  }

  glance(frame: number): Uint8Array | undefined {
    return this.#sealed ? this.#pages.get(frame) : this.#base.glance(frame);
  }

  /**
   * The machine is about to run: from now on only what was recorded counts. A page that is read for the first time
   * afterwards is one of Xen's own page tables or text, which do not change.
   */
  seal(): void {
    this.#sealed = true;
  }

  /** Frame numbers read so far, ascending, without those that hold only zeros (a capsule gives zeros for them). */
  recorded(): { frames: number[]; zeroFrames: number[]; page(frame: number): Uint8Array } {
    const present = [...this.#pages].filter((entry): entry is [number, Uint8Array] => entry[1] !== undefined);
    present.sort(([a], [b]) => a - b);
    const isZero = (page: Uint8Array): boolean => page.every((byte) => byte === 0);
    const zero = new Set(present.filter(([, page]) => isZero(page)).map(([frame]) => frame));
    return {
      frames: present.map(([frame]) => frame).filter((frame) => !zero.has(frame)),
      zeroFrames: [...zero],
      page: (frame) => this.#pages.get(frame)!,
    };
  }
}

const NUMERIC = ['rflags', 'cs', 'ss', 'ds', 'es', 'fs', 'gs'] as const;
const WIDE = [
  ...GENERAL_REGISTERS,
  ...(['rip', 'fsBase', 'gsBase', 'kernelGsBase', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'] as const),
];

const headerSchema = z.object({
  format: z.literal(FORMAT),
  buildId: z.string(),
  root: z.number(),
  mechanism: z.string(),
  without: z.array(z.string()),
  physicalSize: z.number(),
  failure: z.looseObject({ kind: z.string(), summary: z.string(), detectedAtMs: z.number() }),
  note: z.string(),
  cpus: z.array(
    z.object({
      registers: z.record(z.string(), z.union([z.string(), z.number()])),
      lapic: z.object({ id: z.number(), inService: z.array(z.number()), requested: z.array(z.number()) }),
    }),
  ),
  frames: z.array(z.number()),
  zeroFrames: z.array(z.number()),
});

export interface Capsule {
  readonly view: View;
  readonly xen: Xen;
  readonly failure: Failure;
  readonly mechanism: string;
  /** Steps that were left out of the mechanism. */
  readonly without: readonly string[];
  /** What whoever saved it wanted to say: the injection point, the campaign and run. */
  readonly note: string;
}

export interface CapsuleContent {
  readonly recording: RecordingView;
  readonly xen: Xen;
  readonly failure: Failure;
  readonly mechanism: Mechanism;
  readonly without?: ReadonlySet<string>;
  readonly note?: string;
}

/** Writes a capsule. Typically 0.3 to 2 MB. @throws NL_NO_SPACE when the file cannot be written */
export function saveCapsule(path: string, content: CapsuleContent): void {
  const { recording, xen, failure, mechanism, without = new Set<string>(), note = '' } = content;
  // A replay begins with nothing: have it record the entry code and the page tables, which the recovery knew already.
  const fresh = Xen.at(xen.profile, recording, xen.memory.root);
  attempt(() => makePlan(mechanism, fresh, readEntryFacts(fresh), { without }));
  const { frames, zeroFrames, page } = recording.recorded();
  const header: z.infer<typeof headerSchema> = {
    format: FORMAT,
    buildId: xen.profile.buildId,
    root: xen.memory.root,
    mechanism: mechanism.name,
    without: [...without],
    physicalSize: recording.physicalSize,
    failure: { ...failure },
    note,
    cpus: Array.from({ length: recording.cpuCount }, (_, cpu) => ({
      registers: packRegisters(recording.registers(cpu)),
      lapic: {
        id: recording.lapic(cpu).id,
        inService: [...recording.lapic(cpu).inService],
        requested: [...recording.lapic(cpu).requested],
      },
    })),
    frames,
    zeroFrames,
  };
  const bytes = gzipSync(Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...frames.map(page)]));
  try {
    writeFileSync(path, bytes);
  } catch (cause) {
    throw new NinelivesError('NL_NO_SPACE', `the capsule ${path} cannot be written`, {
      fix: 'Free some space or choose another folder.',
      cause,
    });
  }
}

/**
 * Reads a capsule and finds the profile it needs.
 * @throws NL_CAPSULE_INVALID when it is damaged or of another format, NL_PROFILE_UNKNOWN
 */
export function loadCapsule(path: string, profileDir?: string): Capsule {
  const { header, pages } = readFile(path);
  const zero = new Uint8Array(PAGE_SIZE);
  const byFrame = new Map<number, Uint8Array>(header.zeroFrames.map((frame) => [frame, zero]));
  for (const [n, frame] of header.frames.entries()) {
    byFrame.set(frame, pages.subarray(n * PAGE_SIZE, (n + 1) * PAGE_SIZE));
  }
  const registers = header.cpus.map((cpu) => unpackRegisters(cpu.registers));
  let lacked = 0;
  const view: View = {
    cpuCount: header.cpus.length,
    physicalSize: header.physicalSize,
    get lacked() {
      return lacked;
    },
    registers: (cpu) => registers[cpu]!,
    lapic: (cpu) => header.cpus[cpu]!.lapic,
    page: (frame) => {
      const page = byFrame.get(frame);
      if (page === undefined && frame < header.physicalSize / PAGE_SIZE) lacked++;
      return page;
    },
    glance: (frame) => byFrame.get(frame),
  };
  const profile = profileDir === undefined ? loadProfile(header.buildId) : loadProfile(header.buildId, profileDir);
  return {
    view,
    xen: Xen.at(profile, view, physical(header.root)),
    failure: header.failure as unknown as Failure,
    mechanism: header.mechanism,
    without: header.without,
    note: header.note,
  };
}

function readFile(path: string): { header: z.infer<typeof headerSchema>; pages: Uint8Array } {
  const invalid = (why: string, cause?: unknown): NinelivesError =>
    new NinelivesError('NL_CAPSULE_INVALID', `${path} is no capsule: ${why}`, {
      fix: 'Check the path; a capsule ends in .capsule and is written by ninelives.',
      ...(cause === undefined ? {} : { cause }),
    });
  let bytes: Buffer;
  try {
    bytes = gunzipSync(readFileSync(path));
  } catch (cause) {
    throw invalid('it cannot be read or is damaged', cause);
  }
  const end = bytes.indexOf('\n');
  let parsed: unknown;
  try {
    parsed = JSON.parse(bytes.subarray(0, Math.max(0, end)).toString('utf8'));
  } catch (cause) {
    throw invalid('its header is damaged', cause);
  }
  const header = headerSchema.safeParse(parsed);
  if (!header.success) throw invalid(z.prettifyError(header.error));
  // Copied to a buffer of their own, so that a page is aligned and can be read as wider words.
  const pages = Uint8Array.from(bytes.subarray(end + 1));
  if (pages.length !== header.data.frames.length * PAGE_SIZE) throw invalid('pages are missing');
  return { header: header.data, pages };
}

function packRegisters(registers: Readonly<CpuRegisters>): Record<string, string | number> {
  const packed: Record<string, string | number> = {};
  for (const name of WIDE) packed[name] = `0x${registers[name].toString(16)}`;
  for (const name of NUMERIC) packed[name] = registers[name];
  return packed;
}

function unpackRegisters(packed: Readonly<Record<string, string | number>>): CpuRegisters {
  const wide = Object.fromEntries(WIDE.map((name) => [name, BigInt(packed[name] ?? 0)]));
  const numeric = Object.fromEntries(NUMERIC.map((name) => [name, Number(packed[name] ?? 0)]));
  return { ...wide, ...numeric } as unknown as CpuRegisters;
}
