/**
 * A frontend of Xen's block devices: finds its backend through XenStore, shares a ring with it, and moves the pages of one step
 * to and from the disk (Xen 4.17, xen/include/public: io/blkif.h, io/ring.h, io/xenbus.h, grant_table.h). All requests of a
 * transfer are on the ring at once, and the backend is asked for one event, after the last of them.
 *
 * It offers none of the extensions, so that the backend maps and unmaps each page anew: that is work for the hypervisor.
 */
import { type Assembler, R } from './assembler.js';
import {
  BACKEND_PATH_LIMIT,
  DISK_PAGES,
  DOMID_SELF,
  EVTCHNOP,
  GNTTABOP_SETUP_TABLE,
  GRANTS,
  HYPERCALL,
  PAGE,
  PTE,
  RING,
  UVMF_INVLPG,
  V,
} from './layout.js';
import { DIGITS, type ReportLine, stage } from './report.js';
import { at, block, fail, failForGood, hypercall, rest, ret } from './runtime.js';
import { ANSWER_TEXT, append, ask, begin, write } from './xenstore.js';

/** xvda, as xl and Linux number it (major 202, minor 0). */
export const DISK_DEVICE = 202 << 8;
const SECTOR = 512;
const SECTORS_PER_PAGE = PAGE / SECTOR;
/** Steps go over the disk, each to pages of its own, and then begin again: 1 MB, as the published BlkBench writes. */
export const DISK_STEPS = 16;
export const DISK_SECTORS = DISK_STEPS * DISK_PAGES * SECTORS_PER_PAGE;

/** Requests of one transfer, and pages in each: 11 is the limit. */
const REQUESTS = 2;
const SEGMENTS = DISK_PAGES / REQUESTS;

/** `struct blkif_sring` and the entries behind it, each a request that turns into its response. */
export const BLK_RING = {
  requestsProduced: 0,
  requestEvent: 4,
  responsesProduced: 8,
  responseEvent: 12,
  entries: 64,
  entrySize: 112,
  count: 32,
} as const;
export const BLK_READ = 0;
export const BLK_WRITE = 1;

/** Grant references; Xen and its toolstack use the first eight. */
export const RING_GRANT = 8;
const DISK_GRANTS = 16;
/** `grant_entry_v1_t`: flags and domain 0 in the first four bytes, the frame in the others. */
const GRANT = { size: 8, frame: 4, access: 1, readOnlyAccess: 5 } as const;

/** `enum xenbus_state`, in digits. */
const STATE = { initialised: '3', connected: '4', closing: '5', closed: '6' } as const;
const POLL_MS = 4;

const folder = `device/vbd/${DISK_DEVICE}`;
const TEXTS = {
  backend: `${folder}/backend`,
  ringRef: `${folder}/ring-ref`,
  eventChannel: `${folder}/event-channel`,
  protocol: `${folder}/protocol`,
  'our state': `${folder}/state`,
  'its state': '/state',
  'its sectors': '/sectors',
  'ring grant': String(RING_GRANT),
  'our protocol': 'x86_64-abi',
  initialised: STATE.initialised,
  connected: STATE.connected,
} as const;

/** Connects to the backend. Without it the guest has failed. */
export function connectDisk(code: Assembler, line: ReportLine): void {
  stage(code, line, 'xenstore');
  begin(code);
  append(code, 'backend');
  ask(code);
  code.set(R.rdi, V.backendPath);
  code.set(R.rsi, ANSWER_TEXT);
  code.set(R.rcx, BACKEND_PATH_LIMIT - 1); // The zero behind them is there.
  code.bytes(0xf3, 0xa4); // rep movsb

  mapGrantTable(code);
  shareRing(code);
  write(code, 'ringRef', 'ring grant');
  code.load(4, R.rax, at(V.diskPort));
  code.set(R.rdi, V.digits + DIGITS - 1);
  code.call('decimal'); // blkback reads it as a decimal number whatever it begins with.
  begin(code);
  append(code, 'eventChannel');
  code.addressInto(R.rdi, { base: R.rdi, disp: 1 });
  code.set(R.rsi, V.digits);
  code.call('append');
  code.call('write');
  write(code, 'protocol', 'our protocol');
  write(code, 'our state', 'initialised');
  stage(code, line, 'backend');
  awaitBackend(code);
  write(code, 'our state', 'connected');
}

function mapGrantTable(code: Assembler): void {
  code.storeImmediate(4, at(V.setupTable), DOMID_SELF);
  code.storeImmediate(4, at(V.setupTable + 4), 1); // frames wanted
  code.storeImmediate(4, at(V.setupTable + 16), V.grantFrame);
  code.set(R.rdi, GNTTABOP_SETUP_TABLE);
  code.set(R.rsi, V.setupTable);
  code.set(R.rdx, 1); // one such structure
  hypercall(code, HYPERCALL.grantTableOp);
  code.load(8, R.rsi, at(V.grantFrame));
  code.shift('shl', 8, R.rsi, 12);
  code.aluImmediate('or', 8, R.rsi, PTE);
  code.set(R.rdi, GRANTS);
  code.set(R.rdx, UVMF_INVLPG);
  hypercall(code, HYPERCALL.updateVaMapping);
}

function shareRing(code: Assembler): void {
  code.storeImmediate(4, at(RING + BLK_RING.requestEvent), 1);
  code.storeImmediate(4, at(RING + BLK_RING.responseEvent), 1);
  code.set(R.r14, 0);
  code.load(8, R.rax, at(V.frames));
  code.load(8, R.rax, { base: R.rax, disp: (RING / PAGE) * 8 });
  code.store(4, at(GRANTS + GRANT.size * RING_GRANT + GRANT.frame), R.rax);
  code.storeImmediate(4, at(GRANTS + GRANT.size * RING_GRANT), GRANT.access);
  code.storeImmediate(4, at(V.allocUnbound), DOMID_SELF); // The upper half is the other side: domain 0.
  code.set(R.rdi, EVTCHNOP.allocUnbound);
  code.set(R.rsi, V.allocUnbound);
  hypercall(code, HYPERCALL.eventChannelOp);
  code.load(4, R.rax, at(V.allocUnbound + 4));
  code.store(4, at(V.diskPort), R.rax);
}

/** Until the backend is connected; its disk has to be large enough. */
function awaitBackend(code: Assembler): void {
  code.label('ask for state');
  askBackend(code, 'its state');
  code.loadByte(R.rax, at(ANSWER_TEXT));
  code.aluImmediate('cmp', 4, R.rax, STATE.connected.charCodeAt(0));
  code.jumpIf('jz', 'backend is connected');
  for (const state of [STATE.closing, STATE.closed]) {
    code.aluImmediate('cmp', 4, R.rax, state.charCodeAt(0));
    code.jumpIf('jz', 'backend is closed');
  }
  rest(code, POLL_MS);
  code.jump('ask for state');
  code.label('backend is closed');
  failForGood(code, 'backend');

  code.label('backend is connected');
  askBackend(code, 'its sectors');
  code.set(R.rsi, ANSWER_TEXT);
  code.set(R.rax, 0);
  code.label('digit of sectors');
  code.loadByte(R.rcx, { base: R.rsi });
  code.aluImmediate('cmp', 4, R.rcx, 0);
  code.jumpIf('jz', 'all digits');
  code.multiplyImmediate(R.rax, R.rax, 10);
  code.addressInto(R.rax, { base: R.rax, index: R.rcx, disp: -0x30 });
  code.aluImmediate('add', 8, R.rsi, 1);
  code.jump('digit of sectors');
  code.label('all digits');
  code.aluImmediate('cmp', 8, R.rax, DISK_SECTORS);
  code.jumpIf('jb', 'disk is small');
  code.jump('disk is large enough');
  code.label('disk is small');
  failForGood(code, 'sectors');
  code.label('disk is large enough');
}

function askBackend(code: Assembler, node: 'its state' | 'its sectors'): void {
  begin(code);
  code.set(R.rsi, V.backendPath);
  code.call('append');
  append(code, node);
  ask(code);
}

/**
 * Begins to move the pages from address `pages` on to or from the place on the disk that belongs to step r12. The pages are granted to
 * the backend until `complete`.
 */
export function submit(code: Assembler, operation: typeof BLK_READ | typeof BLK_WRITE, pages: number): void {
  code.set(R.rax, pages / PAGE);
  // What is written the backend may only read.
  code.set(R.rdx, operation === BLK_WRITE ? GRANT.readOnlyAccess : GRANT.access);
  code.set(R.r8, operation | (SEGMENTS << 8) | (DISK_DEVICE << 16));
  code.call('submit');
}

/** Waits for the end of what was submitted and checks how it went: the responses, and that no page is held any more. */
export function complete(code: Assembler): void {
  code.call('complete');
}

/** Throughout: r14 is how many requests there have been; between transfers as many responses have been taken. */
export function blkfront(code: Assembler): void {
  submitting(code);
  completing(code);
  for (const [label, value] of Object.entries(TEXTS)) {
    code.label(label);
    code.bytes(...Buffer.from(value), 0);
  }
}

/** eax: number of the first page; edx: what to grant; r8d: the begin of each request. */
function submitting(code: Assembler): void {
  code.label('submit');
  code.load(8, R.rsi, at(V.frames));
  code.addressInto(R.rsi, { base: R.rsi, index: R.rax, scale: 8 });
  code.set(R.rcx, 0);
  code.label('grant');
  code.load(8, R.rax, { base: R.rsi, index: R.rcx, scale: 8 });
  const entry = { index: R.rcx, scale: GRANT.size, disp: GRANTS + GRANT.size * DISK_GRANTS };
  code.store(4, { ...entry, disp: entry.disp + GRANT.frame }, R.rax);
  code.store(4, entry, R.rdx);
  code.aluImmediate('add', 4, R.rcx, 1);
  code.aluImmediate('cmp', 4, R.rcx, DISK_PAGES);
  code.jumpIf('jb', 'grant');

  code.addressInto(R.r10, { base: R.r12, disp: -1 });
  code.aluImmediate('and', 4, R.r10, DISK_STEPS - 1);
  code.multiplyImmediate(R.r10, R.r10, DISK_PAGES * SECTORS_PER_PAGE);
  code.set(R.r9, DISK_GRANTS);
  code.label('request');
  entryOf(code, R.r14);
  code.store(4, { base: R.rbx }, R.r8);
  code.store(8, { base: R.rbx, disp: 8 }, R.r14);
  code.store(8, { base: R.rbx, disp: 16 }, R.r10);
  code.set(R.rcx, 0);
  code.label('segment');
  code.store(4, { base: R.rbx, index: R.rcx, scale: 8, disp: 24 }, R.r9);
  code.storeImmediate(4, { base: R.rbx, index: R.rcx, scale: 8, disp: 28 }, (SECTORS_PER_PAGE - 1) << 8);
  code.aluImmediate('add', 4, R.r9, 1);
  code.aluImmediate('add', 4, R.rcx, 1);
  code.aluImmediate('cmp', 4, R.rcx, SEGMENTS);
  code.jumpIf('jb', 'segment');
  code.aluImmediate('add', 4, R.r10, SEGMENTS * SECTORS_PER_PAGE);
  code.aluImmediate('add', 4, R.r14, 1);
  code.aluImmediate('cmp', 4, R.r9, DISK_GRANTS + DISK_PAGES);
  code.jumpIf('jb', 'request');

  code.store(4, at(RING + BLK_RING.responseEvent), R.r14);
  code.store(4, at(RING + BLK_RING.requestsProduced), R.r14);
  code.set(R.rdi, EVTCHNOP.send);
  code.set(R.rsi, V.diskPort);
  hypercall(code, HYPERCALL.eventChannelOp);
  ret(code);
}

function completing(code: Assembler): void {
  code.label('complete');
  code.load(4, R.rax, at(RING + BLK_RING.responsesProduced));
  code.alu('cmp', 4, R.rax, R.r14);
  code.jumpIf('jz', 'responses are there');
  block(code);
  code.jump('complete');

  // Responses come in any order, but only to these requests.
  code.label('responses are there');
  code.addressInto(R.r8, { base: R.r14, disp: -REQUESTS });
  code.move(4, R.r9, R.r8);
  code.label('response');
  entryOf(code, R.r9);
  code.load(4, R.rax, { base: R.rbx });
  code.alu('sub', 4, R.rax, R.r8);
  code.aluImmediate('cmp', 4, R.rax, REQUESTS);
  code.jumpIf('jb', 'is an answer');
  fail(code, 'answer');
  code.label('is an answer');
  code.load(4, R.rax, { base: R.rbx, disp: 8 });
  code.shift('shr', 4, R.rax, 16); // the status
  code.aluImmediate('cmp', 4, R.rax, 0);
  code.jumpIf('jz', 'went well');
  fail(code, 'disk');
  code.label('went well');
  code.aluImmediate('add', 4, R.r9, 1);
  code.alu('cmp', 4, R.r9, R.r14);
  code.jumpIf('jnz', 'response');

  // Xen sets further flags for as long as the backend has a page mapped.
  code.set(R.rcx, 0);
  code.label('ungrant');
  const entry = { index: R.rcx, scale: GRANT.size, disp: GRANTS + GRANT.size * DISK_GRANTS };
  code.load(4, R.rax, entry);
  code.aluImmediate('and', 4, R.rax, ~GRANT.readOnlyAccess);
  code.storeImmediate(4, entry, 0);
  code.jumpIf('jz', 'is free'); // MOV leaves the flags of AND.
  fail(code, 'grant');
  code.label('is free');
  code.aluImmediate('add', 4, R.rcx, 1);
  code.aluImmediate('cmp', 4, R.rcx, DISK_PAGES);
  code.jumpIf('jb', 'ungrant');
  ret(code);
}

/** rbx = address of the ring's entry for this request. */
function entryOf(code: Assembler, request: typeof R.r9 | typeof R.r14): void {
  code.move(4, R.rbx, request);
  code.aluImmediate('and', 4, R.rbx, BLK_RING.count - 1);
  code.multiplyImmediate(R.rbx, R.rbx, BLK_RING.entrySize);
  code.aluImmediate('add', 4, R.rbx, RING + BLK_RING.entries);
}
