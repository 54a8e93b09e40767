import { describe, expect, it, vi } from 'vitest';
import { catchInterrupts } from '../../src/cli/interrupt.js';

describe('Ctrl-C', () => {
  it('asks everybody to stop at the first, and ends the process at the second', async () => {
    const told = vi.fn();
    const exit = vi.fn();
    using interrupt = catchInterrupts(told, exit);
    process.emit('SIGINT');
    expect(interrupt.signal.aborted).toBe(true);
    expect(interrupt.signal.reason).toMatchObject({ code: 'NL_INTERRUPTED', exitStatus: 130 });
    expect(told).toHaveBeenCalledOnce();

    // The same press again, as a wrapper passes it on.
    process.emit('SIGINT');
    expect(exit).not.toHaveBeenCalled();

    await new Promise((resolve) => setTimeout(resolve, 350));
    process.emit('SIGINT');
    expect(exit).toHaveBeenCalledWith(130);
    expect(told).toHaveBeenCalledOnce();
  });

  it('takes SIGTERM and SIGHUP for it', () => {
    for (const name of ['SIGTERM', 'SIGHUP'] as const) {
      using interrupt = catchInterrupts(() => {});
      process.emit(name);
      expect(interrupt.signal.aborted).toBe(true);
    }
  });

  it('leaves no listener behind', () => {
    const before = process.listenerCount('SIGINT');
    catchInterrupts(() => {})[Symbol.dispose]();
    expect(process.listenerCount('SIGINT')).toBe(before);
  });
});
