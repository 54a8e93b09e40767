import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { silent } from '../../src/common/progress.js';
import { fetchPackages, kernelOf, lackingPackages, pickVersion } from '../../src/testbed/packages.js';

const MADISON = [
  ' xen-hypervisor-4.17-amd64 | 4.17.7+13-g2445b30a44-0+deb12u1 | http://security.example/debian-security x/main amd64 Packages',
  ' xen-hypervisor-4.17-amd64 | 4.17.5+72-g01140da4e8-1 | http://archive.example/debian bookworm/main amd64 Packages',
  '',
].join('\n');

const folders: string[] = [];
function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'nl-packages-'));
  folders.push(made);
  return made;
}
afterEach(() => {
  for (const made of folders.splice(0)) rmSync(made, { recursive: true, force: true });
});

describe('the version of Xen', () => {
  it("is apt's candidate unless another is asked for", () => {
    expect(pickVersion(MADISON, 'candidate')).toBe('4.17.7+13-g2445b30a44-0+deb12u1');
    expect(pickVersion(MADISON, '4.17.5')).toBe('4.17.5+72-g01140da4e8-1');
    expect(pickVersion(MADISON, '4.17.7+13-g2445b30a44-0+deb12u1')).toBe('4.17.7+13-g2445b30a44-0+deb12u1');
  });

  it('is missing where the lists do not have it', () => {
    expect(pickVersion(MADISON, '4.18')).toBeUndefined();
    expect(pickVersion('', 'candidate')).toBeUndefined();
  });

  it('does not take 4.17.50 for 4.17.5', () => {
    expect(pickVersion(' x | 4.17.50-1 | y', '4.17.5')).toBeUndefined();
  });

  it('is refused when it is none, before anything is run', async () => {
    await expect(fetchPackages({ cache: folder(), xenVersion: '../..;x' }, silent)).rejects.toMatchObject({
      code: 'NL_USAGE',
    });
  });
});

it('reads the kernel behind the meta package', () => {
  expect(kernelOf('linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n')).toBe('linux-image-6.1.0-56-amd64');
  expect(kernelOf('')).toBeUndefined();
});

it('names the packages of programs that are not in PATH', () => {
  const path = folder();
  writeFileSync(join(path, 'xz'), '');
  expect(lackingPackages(path)).toEqual(['qemu-system-x86', 'util-linux']);
});
