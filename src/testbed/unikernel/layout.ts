/**
 * Where things are in the unikernel's memory, and the numbers of the interface that it lives on: Xen 4.17,
 * xen/include/public (xen.h, arch-x86/xen.h, arch-x86/xen-x86_64.h, event_channel.h, sched.h, grant_table.h).
 */
export const PAGE = 4096;

/** Pages of the disk that one step writes and reads back. */
export const DISK_PAGES = 16;

/** Pages, in this order. */
export const CODE = 0x10000;
export const CODE_PAGES = 2;
/** Filled by Xen with its hypercall entries. */
export const HYPERCALLS = CODE + CODE_PAGES * PAGE;
export const SHARED = HYPERCALLS + PAGE;
export const REPORTS = SHARED + PAGE;
export const VARIABLES = REPORTS + 2 * PAGE;
const STACK = VARIABLES + PAGE;
export const STACK_TOP = STACK + PAGE;
/** The ring shared with xenstored. */
export const STORE = STACK_TOP;
export const GRANTS = STORE + PAGE;
/** The ring shared with blkback. */
export const RING = GRANTS + PAGE;
/** A request to XenStore, and its answer: header and payload. */
export const MESSAGE = RING + PAGE;
export const ANSWER = MESSAGE + PAGE;
/** What a step writes to the disk and keeps; the page that it unmaps in between; what it has read back. */
export const GOLDEN = ANSWER + PAGE;
export const WORK = GOLDEN + DISK_PAGES * PAGE;
export const READ = WORK + PAGE;
export const END = READ + DISK_PAGES * PAGE;

/** Variables, of 8 bytes if not said otherwise. */
export const V = {
  /** 32 bytes: the digest. */
  state: VARIABLES,
  /** Ports whose events have come in, one bit each. */
  fired: VARIABLES + 64,
  /** The bit of the timer's port in `fired`. */
  timerBit: VARIABLES + 72,
  /** What maps the work's page. */
  workEntry: VARIABLES + 80,
  /** Address of the name of the check that failed last. */
  failedCheck: VARIABLES + 88,
  /** Address of the table from the guest's own page numbers to frame numbers. */
  frames: VARIABLES + 96,
  /** Arguments of hypercalls: ports for EVTCHNOP_send, and structures. */
  storePort: VARIABLES + 104,
  diskPort: VARIABLES + 112,
  bindVirq: VARIABLES + 120,
  allocUnbound: VARIABLES + 136,
  setupTable: VARIABLES + 144,
  grantFrame: VARIABLES + 168,
  /** Path of the disk's backend, ended by a zero; `BACKEND_PATH_LIMIT` bytes. */
  backendPath: VARIABLES + 256,
  /** A number in digits, ended by a zero. */
  digits: VARIABLES + 512,
} as const;
export const BACKEND_PATH_LIMIT = 256;

export const HYPERCALL = {
  setCallbacks: 4,
  updateVaMapping: 14,
  setTimerOp: 15,
  grantTableOp: 20,
  schedOp: 29,
  eventChannelOp: 32,
} as const;
export const EVTCHNOP = { bindVirq: 1, send: 4, allocUnbound: 6 } as const;
export const SCHEDOP = { yield: 0, block: 1 } as const;
export const GNTTABOP_SETUP_TABLE = 2;
export const DOMID_SELF = 0x7ff0;
/** Flush this one translation on this CPU. */
export const UVMF_INVLPG = 2;
/** Present, writable, user, accessed, dirty: Xen runs PV kernels in ring 3. */
export const PTE = 0x67;

export const START_INFO = { sharedInfo: 40, storeFrame: 56, storePort: 64, mfnList: 104 } as const;

/** In `struct shared_info`; the first vCPU's `vcpu_info` is its begin, that one's time record is at 32. */
export const SHARED_INFO = {
  upcallPending: 0,
  upcallMask: 1,
  pendingSelector: 8,
  timeVersion: 32,
  tscTimestamp: 40,
  systemTime: 48,
  tscToSystemMul: 56,
  tscShift: 60,
  eventPending: 2048,
  eventMask: 2560,
} as const;
