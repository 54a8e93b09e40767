/** All connections to one QEMU process, opened and closed together. A machine that is restored gets a new link. */
import { setTimeout as sleep } from 'node:timers/promises';
import { NinelivesError } from '../common/errors.js';
import { type CpuFact, type FoundStub, findProcess, findStub, readCpus, requireVersion, stopStub } from './attach.js';
import { isGone } from './proc.js';
import { Qmp } from './qmp.js';
import { StubSession } from './rsp/session.js';
import { RunControl } from './run-control.js';

export interface OpenLinkOptions {
  readonly qmpPath: string;
  readonly gdb?: string;
  /** The last words of QEMU, for error messages, where we have them. */
  readonly stderrTail?: () => string;
}

export interface Link {
  readonly qmp: Qmp;
  readonly session: StubSession;
  readonly control: RunControl;
  readonly pid: number;
  readonly qmpPath: string;
  readonly stub: FoundStub;
  readonly cpus: readonly CpuFact[];
  /** Called once when QEMU ends or either socket is lost. */
  onLost: (error: NinelivesError) => void;
  /** Ends QEMU: asks, then kills. */
  terminate(): Promise<void>;
  /** Ends QEMU at once. */
  kill(): Promise<void>;
}

/**
 * Connects to QMP, then to the stub. `prepare` runs in between, while the machine still runs: connecting to the stub stops it.
 * @throws NL_QMP_LOST, NL_QEMU_TOO_OLD, NL_QEMU_EXITED, NL_STUB_LOST, NL_STUB_BUSY, and what `prepare` throws
 */
export async function openLink(
  options: OpenLinkOptions,
  prepare: (qmp: Qmp, pid: number) => Promise<void>,
): Promise<Link> {
  let pid = 0;
  const explainLoss = (): NinelivesError | undefined => (pid !== 0 && isGone(pid) ? exited(options) : undefined);
  const qmp = await Qmp.open(options.qmpPath, { explainLoss });
  try {
    requireVersion(qmp.version);
    const cpus = await readCpus(qmp);
    pid = findProcess(cpus);
    await prepare(qmp, pid);
    const stub = await findStub(qmp, options.qmpPath, options.gdb);
    const session = await StubSession.open(stub.address, { explainLoss });
    return connectParts(qmp, session, { pid, cpus, stub, qmpPath: options.qmpPath });
  } catch (error) {
    qmp.close();
    throw error;
  }
}

function connectParts(qmp: Qmp, session: StubSession, facts: Pick<Link, 'pid' | 'cpus' | 'stub' | 'qmpPath'>): Link {
  const control = new RunControl(session);
  const link: Link = {
    qmp,
    session,
    control,
    ...facts,
    onLost: () => {},
    terminate: () => terminate(link),
    kill: () => kill(link),
  };
  let lost = false;
  const lose = (error: NinelivesError): void => {
    if (lost) return;
    lost = true;
    control.fail(error);
    session.refuse(error);
    link.onLost(error);
  };
  session.onLost = lose;
  qmp.onLost = lose;
  return link;
}

/** Removes what we put into the machine, and closes both sockets. Never throws when QEMU is gone already. */
export async function closeLink(link: Link, leave: 'run' | 'stand'): Promise<void> {
  const { control, session, qmp } = link;
  link.onLost = () => {};
  try {
    if (control.state === 'ended') {
      if (!isGone(link.pid)) await salvage(link, leave);
    } else {
      if (control.state === 'running' && control.breakpoints.size > 0) await control.freeze();
      if (control.state === 'frozen') {
        await control.clearBreakpoints();
        if (leave === 'run') await session.detach();
      }
    }
  } catch (error) {
    ignoreLoss(error);
  }
  session.close();
  if (link.stub.startedByUs) await stopStub(qmp).catch(ignoreLoss);
  qmp.close();
}

/**
 * One of the two sockets is gone while QEMU lives. The machine may stand still, and our breakpoints would stop it later with
 * nobody there to let it go on; so they are removed over the stub, newly connected where that is what was lost.
 */
async function salvage(link: Link, leave: 'run' | 'stand'): Promise<void> {
  const session = link.session.lost ? await reopenStub(link) : link.session;
  session.refuse(undefined);
  if (session.running) {
    const stopped = new Promise<void>((resolve) => {
      session.onStop = () => resolve();
    });
    session.interrupt();
    await Promise.race([stopped, sleep(SALVAGE_LIMIT_MS)]);
  }
  await session.removeBreakpoints(link.control.breakpoints);
  if (leave === 'run') await session.detach();
  else session.close();
}

/** The stub may have been moved: ask, where QMP can still be asked. */
async function reopenStub(link: Link): Promise<StubSession> {
  const found = await findStub(link.qmp, link.qmpPath).catch(() => link.stub);
  return StubSession.open(found.address);
}

const SALVAGE_LIMIT_MS = 1000;
const QUIT_LIMIT_MS = 2000;

async function terminate(link: Link): Promise<void> {
  link.onLost = () => {};
  const asked = link.qmp.execute('quit').catch(() => {});
  await waitUntilGone(link.pid, QUIT_LIMIT_MS);
  await kill(link);
  await asked;
}

async function kill(link: Link): Promise<void> {
  link.onLost = () => {};
  link.control.fail(new NinelivesError('NL_QEMU_EXITED', 'QEMU was ended by us'));
  if (!isGone(link.pid)) process.kill(link.pid, 'SIGKILL');
  await waitUntilGone(link.pid, QUIT_LIMIT_MS);
  link.session.close();
  link.qmp.close();
}

/** Whether the process ended within the limit. */
export async function waitUntilGone(pid: number, limitMs: number): Promise<boolean> {
  const end = performance.now() + limitMs;
  while (!isGone(pid)) {
    if (performance.now() > end) return false;
    await sleep(5);
  }
  return true;
}

/** While letting go, a lost link is not an error: there is nothing left to let go of. */
function ignoreLoss(error: unknown): void {
  if (error instanceof NinelivesError && /^NL_(STUB|QMP|QEMU)_/.test(error.code)) return;
  throw error;
}

function exited(options: OpenLinkOptions): NinelivesError {
  const tail = options.stderrTail?.().trim() ?? '';
  return new NinelivesError('NL_QEMU_EXITED', `QEMU has ended${tail === '' ? '' : `; its last words: ${tail}`}`, {
    fix: 'see its last words and the system log (out of memory?), then start the box again',
  });
}
