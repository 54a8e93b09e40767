/**
 * Ctrl-C: the first asks everybody to stop, by an abort signal whose reason is NL_INTERRUPTED; a second one does not
 * wait for them. SIGTERM and SIGHUP count as Ctrl-C, so that a closed terminal leaves nothing behind either.
 */
import { EXIT, NinelivesError } from '../common/errors.js';

export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * A second signal that comes sooner than this is the same press: a terminal signals the whole process group, and a
 * wrapper such as `npm` or `timeout` passes on what it got as well.
 */
const SAME_PRESS_MS = 300;

/**
 * @param told called once, at the first signal
 * @param exit ends the process at the second one; `process.exit` runs the exit handlers that end QEMU
 */
export function catchInterrupts(told: () => void, exit: (status: number) => void = process.exit): Interrupt {
  const controller = new AbortController();
  let firstAtMs = 0;
  const onSignal = (): void => {
    if (controller.signal.aborted) {
      if (performance.now() - firstAtMs > SAME_PRESS_MS) exit(EXIT.interrupted);
      return;
    }
    firstAtMs = performance.now();
    told();
    controller.abort(new NinelivesError('NL_INTERRUPTED', 'interrupted'));
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const name of SIGNALS) process.off(name, onSignal);
    },
  };
}
