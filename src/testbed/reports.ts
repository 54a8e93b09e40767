/**
 * Who is alive: the reports that each VM writes into a page of its own memory (`guest/report.sh`, `unikernel/program.ts`), read
 * from outside.
 *
 * Neither Xen nor dom0 has a part in it, so it tells the truth however broken they are. A report page is found once, by a scan of
 * all RAM for the box's magic at the start of a page, and after that costs a memory read. A guest's kernel may move the
 * page (compaction) and a freed copy may stay behind, so of several pages of one VM the furthest counts, and a VM that
 * seems to stand still is looked for again before it is believed.
 */
import { dataRanges } from '../machine/libc.js';
import { type GuestRam, MappedRam } from '../machine/ram.js';
import { PAGE_SIZE } from '../x86/address.js';
import type { GuestKind } from './spec.js';
import type { UnikernelWork } from './unikernel/mix.js';

export type VmKind = 'dom0' | GuestKind;

/** One VM's own word on its work. */
export interface VmReport {
  readonly name: string;
  readonly kind: VmKind;
  /** Steps done. */
  readonly n: number;
  /** Of step `n`: 64 hexadecimal digits. */
  readonly digest: string;
  /** Checks of its own that failed. */
  readonly errors: number;
  /** Name of the last check that failed, or "-". */
  readonly note: string;
  /** Which chain `digest` belongs to: that of `guest/report.sh`, or one of the unikernel's. */
  readonly work: 'files' | UnikernelWork;
  /** What the unikernel is at (`STAGES`). */
  readonly stage?: string;
}

const LINE =
  /^([0-9A-Za-z]{32}) ([a-z][a-z0-9]*) (dom0|pv|pvh) n=(\d+) digest=([0-9a-f]{64}) errors=(\d+) note=([^\s.]+)\.*(?: work=(mix|blkbench) stage=([a-z]+)\.*)? end=(\d+)$/;
/** A report is shorter than this. */
const LINE_LIMIT = 256;

/** The report in a page; `undefined` for any other page, and for a report that is being written. */
export function parseReport(page: Uint8Array, magic: string): VmReport | undefined {
  // A copy first: the page belongs to a machine that may be running.
  const text = Buffer.from(page.subarray(0, LINE_LIMIT)).toString('latin1');
  const end = text.indexOf('\n');
  if (end < 0) return undefined;
  const match = LINE.exec(text.slice(0, end));
  if (!match || match[1] !== magic || match[4] !== match[10]) return undefined;
  const [, , name = '', kind = '', n = '', digest = '', errors = '', note = '', work = 'files', stage] = match;
  const progress = { n: Number(n), digest, errors: Number(errors), note };
  return {
    ...{ name, kind: kind as VmKind, ...progress, work: work as VmReport['work'] },
    ...(stage === undefined ? {} : { stage }),
  };
}

/** Frame numbers of all pages that begin with the magic, ascending. Under 0.1 s for 2 GiB. */
export function findReportPages(ram: GuestRam, magic: string): number[] {
  const wanted = Buffer.from(magic, 'latin1');
  const begins = (page: Uint8Array): boolean => wanted.equals(page.subarray(0, wanted.length));
  if (ram instanceof MappedRam) return scanMapped(ram, wanted);
  const frames: number[] = [];
  for (const { start, end } of ram.segments)
    for (let frame = Math.ceil(start / PAGE_SIZE); (frame + 1) * PAGE_SIZE <= end; frame++) {
      const page = ram.page(frame);
      if (page && begins(page)) frames.push(frame);
    }
  return frames;
}

/** Looks only where the file has data: touching a hole through the mapping would fill it. */
function scanMapped(ram: MappedRam, wanted: Buffer): number[] {
  const { views, length } = ram.mapping;
  const first = wanted.readUInt32LE(0);
  const viewSize = views[0]?.length ?? 1;
  const words = views.map((view) => new Uint32Array(view.buffer, view.byteOffset, view.length / 4));
  const frames: number[] = [];
  for (const { start, end } of dataRanges(ram.fd, length)) {
    for (let offset = start - (start % PAGE_SIZE); offset < end; offset += PAGE_SIZE) {
      const index = Math.floor(offset / viewSize);
      const within = offset % viewSize;
      if (words[index]?.[within / 4] !== first) continue;
      if (!wanted.equals(Buffer.from(views[index]!.subarray(within, within + wanted.length)))) continue;
      const segment = ram.segments.find((one) => offset >= one.offset && offset < one.offset + one.end - one.start);
      if (segment) frames.push((offset - segment.offset + segment.start) / PAGE_SIZE);
    }
  }
  return frames.sort((a, b) => a - b);
}

/** Reads the reports of one box again and again. */
export class ReportReader {
  readonly #ram: () => GuestRam;
  readonly #magic: string;
  #frames: number[];

  /**
   * @param ram the box's RAM as it is now
   * @param frames where reports are known to be, such as from a snapshot
   */
  constructor(ram: () => GuestRam, magic: string, frames: readonly number[] = []) {
    this.#ram = ram;
    this.#magic = magic;
    this.#frames = [...frames];
  }

  /** Frames of the report pages, as found by the last scan. */
  get frames(): readonly number[] {
    return this.#frames;
  }

  /** The box was set back to a snapshot, in which the reports are in these frames. */
  reset(frames: readonly number[]): void {
    this.#frames = [...frames];
  }

  /** Scans all RAM for report pages. */
  rescan(): void {
    this.#frames = findReportPages(this.#ram(), this.#magic);
  }

  /** The furthest report of each VM, by name. A VM that never reported is not in it. */
  read(): VmReport[] {
    const furthest = new Map<string, VmReport>();
    const ram = this.#ram();
    for (const frame of this.#frames) {
      const page = ram.page(frame);
      const report = page && parseReport(page, this.#magic);
      if (report && report.n >= (furthest.get(report.name)?.n ?? 0)) furthest.set(report.name, report);
    }
    return [...furthest.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }
}
