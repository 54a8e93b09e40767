/** A recovery takes a few milliseconds and every one of them is an outage: for that long the host lets us run before others. */
import { constants, getPriority, setPriority } from 'node:os';

/**
 * Raises the priority of this thread where the host permits it; does nothing where it does not. For the time of a recovery only:
 * what we start afterwards would inherit it.
 */
export class Urgency implements Disposable {
  #before: number | undefined;

  constructor() {
    try {
      this.#before = getPriority();
      setPriority(constants.priority.PRIORITY_HIGHEST);
    } catch {
      this.#before = undefined;
    }
  }

  [Symbol.dispose](): void {
    if (this.#before !== undefined) setPriority(this.#before);
  }
}
