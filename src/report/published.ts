/**
 * What is published about recovering a failed hypervisor: facts as they stand in the papers, each with its source, to be set beside ours.
 *
 * - NiLiHype: Zhou and Tamir, "Fast Hypervisor Recovery Without Reboot", DSN 2018; extended in Zhou's thesis, UCLA 2020, chapter 3
 * - ReHype: Le and Tamir, VEE 2011, in the port that Zhou and Tamir measured beside NiLiHype
 */

export type PublishedSystem = 'NiLiHype' | 'ReHype';

/** How one fault type went in the 3AppVM setup. Shares in 0..1. */
export interface PublishedFaultType {
  /** As in `planned.fault` of our records. */
  readonly fault: 'failstop' | 'register' | 'code';
  readonly name: string;
  readonly injected: number;
  readonly notManifested: number;
  readonly sdc: number;
  readonly detected: number;
  /** Of the detected failures. */
  readonly systems: Readonly<Record<PublishedSystem, { readonly success: number; readonly noVmf: number }>>;
}

export const PUBLISHED_SETUP = '3AppVM: 8 CPUs, 8 GB, PrivVM and AppVMs PV with one vCPU each, pinned';
export const PUBLISHED_SOURCE = 'Zhou and Tamir, DSN 2018, and Zhou, thesis, UCLA 2020, ch. 3';

export const PUBLISHED_FAULT_TYPES: readonly PublishedFaultType[] = [
  {
    fault: 'failstop',
    name: 'Failstop',
    injected: 1000,
    notManifested: 0,
    sdc: 0,
    detected: 1,
    systems: { NiLiHype: { success: 0.986, noVmf: 0.946 }, ReHype: { success: 0.989, noVmf: 0.95 } },
  },
  {
    fault: 'register',
    name: 'Register',
    injected: 5000,
    notManifested: 0.748,
    sdc: 0.056,
    detected: 0.196,
    systems: { NiLiHype: { success: 0.9445, noVmf: 0.9179 }, ReHype: { success: 0.9632, noVmf: 0.9285 } },
  },
  {
    fault: 'code',
    name: 'Code',
    injected: 2000,
    notManifested: 0.35,
    sdc: 0.121,
    detected: 0.529,
    systems: { NiLiHype: { success: 0.8874, noVmf: 0.8393 }, ReHype: { success: 0.9074, noVmf: 0.8517 } },
  },
];

export const publishedFaultType = (fault: string): PublishedFaultType | undefined =>
  PUBLISHED_FAULT_TYPES.find((type) => type.fault === fault);

/** Detected failures, the trials of the published rates, to the nearest whole: the papers give the shares only. */
export const detectedFailures = (type: PublishedFaultType): number => Math.round(type.injected * type.detected);

/** Latency of one recovery with 8 GB, in milliseconds, and what it is spent on. */
export interface PublishedLatency {
  readonly system: PublishedSystem;
  readonly totalMs: number;
  readonly parts: readonly { readonly what: string; readonly ms: number }[];
}

export const PUBLISHED_LATENCIES: readonly PublishedLatency[] = [
  {
    system: 'NiLiHype',
    totalMs: 22,
    parts: [
      { what: 'scan of page-frame descriptors', ms: 21 },
      { what: 'everything else', ms: 1 },
    ],
  },
  {
    system: 'ReHype',
    totalMs: 713,
    parts: [
      { what: 'hardware initialisation', ms: 412 },
      { what: 'memory initialisation', ms: 266 },
      { what: 'other', ms: 35 },
    ],
  },
];

/** Success (0..1) of the mechanism up to and including a part: 1AppVM, UnixBench, 1000 Failstop faults each. */
export interface PublishedIncrement {
  readonly system: PublishedSystem;
  readonly upTo: string;
  readonly success: number;
}

export const INCREMENT_FAULTS = 1000;

export const PUBLISHED_INCREMENTS: readonly PublishedIncrement[] = [
  { system: 'NiLiHype', upTo: 'discard all threads', success: 0 },
  { system: 'NiLiHype', upTo: '+ clear the IRQ nesting count', success: 0.16 },
  { system: 'NiLiHype', upTo: '+ the ReHype mechanisms', success: 0.518 },
  { system: 'NiLiHype', upTo: '+ consistent scheduling metadata', success: 0.822 },
  { system: 'NiLiHype', upTo: '+ re-arm the APIC timer', success: 0.95 },
  { system: 'NiLiHype', upTo: '+ unlock static locks, re-activate recurring timers', success: 0.961 },
  { system: 'ReHype', upTo: 'initial port to x86-64', success: 0.654 },
  { system: 'ReHype', upTo: '+ retry of system calls and batched hypercalls, FS and GS kept', success: 0.838 },
  { system: 'ReHype', upTo: '+ undo log and reordering for non-idempotent hypercalls', success: 0.964 },
];
