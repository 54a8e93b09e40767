/** The parts of memory in which Xen keeps its data, as spans of virtual addresses that are mapped linearly page by page. */
import { PAGE_SIZE } from '../x86/address.js';
import { frameCount, frameTable } from '../xen/frames.js';
import { cpuStack } from '../xen/stack.js';
import { wordsOf } from '../xen/words.js';
import type { Xen } from '../xen/xen.js';

/**
 * - `data`: `.data`, `.data.read_mostly` and `.bss` of Xen's image, without the stack and the per-CPU area of CPU 0;
 * - `per-cpu`: the per-CPU areas of all CPUs;
 * - `xenheap`: pages that are allocated from Xen's heap and not shared with guests by design of the allocator;
 * - `stacks`: the stacks of all CPUs;
 * - `page-frames`: the descriptors of all frames of RAM (`frame_table`).
 */
export const REGIONS = ['data', 'per-cpu', 'xenheap', 'stacks', 'page-frames'] as const;
export type Region = (typeof REGIONS)[number];

export interface Span {
  readonly address: bigint;
  /** Bytes. */
  readonly size: number;
}

export function spansOf(xen: Xen, region: Region): Span[] {
  switch (region) {
    case 'data':
      return dataSpans(xen);
    case 'per-cpu':
      return perCpuSpans(xen);
    case 'xenheap':
      return heapSpans(xen);
    case 'stacks':
      return stackSpans(xen);
    case 'page-frames':
      return [{ address: frameTable(xen), size: frameCount(xen) * xen.sizeOf('page_info') }].flatMap((span) =>
        mappedPages(xen, span),
      );
  }
}

const DATA_SECTIONS = new Set(['.data', '.data.read_mostly', '.bss']);

function dataSpans(xen: Xen): Span[] {
  const sections = xen.profile.image.filter(({ name }) => DATA_SECTIONS.has(name));
  const others = [...stackSpans(xen), perCpuTemplate(xen)];
  // Xen has given back what only the boot needed, such as the memory of its EFI allocator.
  return sections.flatMap((section) => without(section, others)).flatMap((span) => mappedPages(xen, span));
}

const stackSpans = (xen: Xen): Span[] =>
  Array.from({ length: xen.cpuCount }, (_, cpu) => {
    const { base, end } = cpuStack(xen, cpu);
    return { address: base, size: Number(end - base) };
  }).flatMap((span) => mappedPages(xen, span));

function perCpuTemplate(xen: Xen): Span {
  const address = xen.symbol('__per_cpu_start');
  return { address, size: Number(xen.symbol('__per_cpu_data_end') - address) };
}

function perCpuSpans(xen: Xen): Span[] {
  const { address, size } = perCpuTemplate(xen);
  return Array.from({ length: xen.cpuCount }, (_, cpu) => ({ address: address + xen.perCpuOffset(cpu), size }));
}

/** Xen's heap is every frame whose descriptor says so (Xen 4.17, x86: `PGC_xen_heap`, set while the page is allocated). */
function heapSpans(xen: Xen): Span[] {
  const { profile } = xen;
  const size = xen.sizeOf('page_info');
  const perPage = PAGE_SIZE / size;
  const field = profile.struct('page_info').field('count_info').offset;
  const mask = Number((BigInt(profile.constant('PGC_xen_heap')) | BigInt(profile.constant('PGC_state'))) >> 32n) >>> 0;
  const heap = Number(BigInt(profile.constant('PGC_xen_heap')) >> 32n) >>> 0;
  const directMap = BigInt(profile.constant('DIRECTMAP_VIRT_START'));
  const spans: Span[] = [];
  const total = frameCount(xen);
  for (let first = 0; first < total; first += perPage) {
    const page = xen.memory.glanceAt(frameTable(xen) + BigInt(first * size));
    if (page === undefined) continue;
    const words = wordsOf(page);
    for (let n = 0; n < perPage && first + n < total; n++) {
      const upper = words[(n * size + field + 4) / 4]!;
      if ((upper & mask) >>> 0 !== heap) continue;
      spans.push({ address: directMap + BigInt(first + n) * BigInt(PAGE_SIZE), size: PAGE_SIZE });
    }
  }
  return spans;
}

/** The parts of a span, page by page, that are mapped: a guard page is not. */
function mappedPages(xen: Xen, { address, size }: Span): Span[] {
  const pages: Span[] = [];
  for (let done = 0; done < size; ) {
    const at = address + BigInt(done);
    const part = Math.min(PAGE_SIZE - Number(at % BigInt(PAGE_SIZE)), size - done);
    if (xen.memory.isMapped(at)) pages.push({ address: at, size: part });
    done += part;
  }
  return pages;
}

/** What is left of a span when others are cut out of it. */
export function without(span: Span, others: readonly Span[]): Span[] {
  let left: Span[] = [{ address: span.address, size: span.size }];
  for (const other of others) {
    const end = other.address + BigInt(other.size);
    left = left.flatMap((piece) => {
      const pieceEnd = piece.address + BigInt(piece.size);
      if (end <= piece.address || other.address >= pieceEnd) return [piece];
      const parts: Span[] = [];
      if (other.address > piece.address)
        parts.push({ address: piece.address, size: Number(other.address - piece.address) });
      if (end < pieceEnd) parts.push({ address: end, size: Number(pieceEnd - end) });
      return parts;
    });
  }
  return left;
}

/** The address of the byte that lies at the part `where` (from 0 to below 1) of all the spans' bytes together. */
export function byteAt(spans: readonly Span[], where: number): { address: bigint; total: number } | undefined {
  const total = spans.reduce((sum, span) => sum + span.size, 0);
  let offset = Math.floor(where * total);
  for (const span of spans) {
    if (offset < span.size) return { address: span.address + BigInt(offset), total };
    offset -= span.size;
  }
  return undefined;
}
