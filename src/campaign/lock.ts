/** One process at a time runs a campaign. The kernel holds the lock, so that of a killed process is free at once. */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { NinelivesError } from '../common/errors.js';
import { tryLock } from '../machine/libc.js';

/** @throws NL_CAMPAIGN_BUSY */
export function lockFolder(path: string): Disposable {
  const fd = openSync(path, 'a+', 0o644);
  if (!tryLock(fd)) {
    closeSync(fd);
    const owner = readFileSync(path, 'utf8').trim();
    throw new NinelivesError(
      'NL_CAMPAIGN_BUSY',
      `another process${owner === '' ? '' : ` (${owner})`} runs this campaign`,
      {
        fix: 'wait for it, or end it with Ctrl-C or kill; "ninelives campaign status" shows how far it is',
      },
    );
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`);
  return { [Symbol.dispose]: () => closeSync(fd) };
}
