import { describe, expect, it } from 'vitest';
import { relayedBy } from '../../src/campaign/evidence.js';

describe('what dom0 passed on of a guest', () => {
  it('is that guest’s lines only, whole', () => {
    const console = [
      'ninelives: app1 pv n=50\r',
      'app1 says: Kernel panic - not syncing: says: x\r',
      'app10 says: hello\r',
      '(XEN) d1v0 says: nothing\r',
      'ninelives: dom0 kernel is up',
    ].join('\n');
    expect(relayedBy(console, 'app1')).toBe('ninelives: app1 pv n=50\nKernel panic - not syncing: says: x\n');
    expect(relayedBy(console, 'app10')).toBe('hello\n');
    expect(relayedBy(console, 'app2')).toBe('');
  });
});
