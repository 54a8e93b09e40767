import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { workBlock } from '../../src/testbed/work-block.js';
import { ChainOracle, chainNext, chainStart } from '../../src/workload/chain.js';

describe('the chain', () => {
  it('starts with the seed of the VM', () => {
    expect(chainStart('app1')).toEqual({ n: 0, digest: createHash('sha256').update('seed app1\n').digest('hex') });
  });

  it('is what the shell of a guest computes', () => {
    const script = `
      digest=$(echo "seed app1" | sha256sum); digest=\${digest%% *}
      for n in 1 2 3; do
        sum=$(printf '%s %d\\n%s\\n' "$digest" "$n" "$BLOCK" | sha256sum); digest=\${sum%% *}
      done
      echo $digest`;
    const shell = execFileSync('sh', ['-c', script], { env: { ...process.env, BLOCK: workBlock() }, encoding: 'utf8' });
    const third = chainNext(chainNext(chainNext(chainStart('app1'))));
    expect(third).toEqual({ n: 3, digest: shell.trim() });
  });

  it('is known to the oracle at any step in any order', () => {
    const points = [chainStart('app1')];
    for (let i = 0; i < 600; i++) points.push(chainNext(points[i]!));
    const oracle = new ChainOracle();
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 600 }), (n) => {
        expect(oracle.digest('app1', n)).toBe(points[n]!.digest);
      }),
    );
    expect(oracle.digest('app2', 1)).not.toBe(points[1]!.digest);
  });
});

it('has a block of printable text without a newline at its end', () => {
  expect(workBlock()).toMatch(/^[A-Za-z0-9+/=\n]+$/);
  expect(workBlock().endsWith('\n')).toBe(false);
  expect(workBlock().length).toBeGreaterThan(8192);
});
