/** Not waiting any longer for something that knows nothing of Ctrl-C. */

/**
 * The result of `work`, or the signal's reason as soon as it is aborted.
 * @param discard called with a result that comes after the abort, so that nothing is left running
 */
export async function unlessAborted<T>(
  signal: AbortSignal,
  work: Promise<T>,
  discard: (late: T) => Promise<void> = async () => {},
): Promise<T> {
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } catch (error) {
    // What fails after the abort fails because of it; there is nobody left to tell.
    if (signal.aborted) work.then(discard).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
