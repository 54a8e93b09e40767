/**
 * Finds the Xen in a machine's memory by the build-id note that it carries, without help from any CPU: Xen's image lies
 * on a 2 MiB boundary and is mapped linearly, so a profile says where the note must be.
 */
import { NinelivesError } from '../common/errors.js';
import { knownProfiles, loadProfile, type Profile } from '../layout/profile.js';
import { hex, PAGE_SIZE, physical } from '../x86/address.js';
import { translate } from '../x86/paging.js';
import type { View } from '../x86/view.js';
import { idleVcpu } from './domains.js';
import { cpuStack } from './stack.js';
import { Xen } from './xen.js';

const SUPERPAGE = 2 * 1024 * 1024;
/** Header of a GNU build-id note with a 20-byte id: sizes of name and content, type 3, "GNU". */
const NOTE_HEADER = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 0x47, 0x4e, 0x55, 0];
const NOTE_SYMBOL = '__note_gnu_build_id_start';
/** `domain_id` of the idle domain. */
const IDLE_DOMAIN = 0x7fff;

/**
 * @throws NL_XEN_NOT_FOUND where there is no Xen, NL_PROFILE_UNKNOWN where there is one of a build without a profile,
 *   NL_PROFILE_MISMATCH where the profile does not describe it
 */
export function locateXen(view: View, profileDir?: string): Xen {
  for (const { buildId } of knownProfiles(profileDir)) {
    const profile = loadProfile(buildId, profileDir);
    const xen = locateBuild(view, profile);
    if (xen !== undefined) {
      verifyProfile(xen);
      return xen;
    }
  }
  const strangers = findBuildIds(view);
  if (strangers.length === 0) {
    throw new NinelivesError('NL_XEN_NOT_FOUND', 'there is no Xen in the memory of this machine', {
      fix: 'Wait until Xen has booted, or check that this is the right machine.',
    });
  }
  const known = knownProfiles(profileDir).map((profile) => `  ${profile.buildId}  Xen ${profile.version}`);
  throw new NinelivesError(
    'NL_PROFILE_UNKNOWN',
    `the machine runs a build that has no profile; build-ids found in its memory: ${strangers.join(', ')}; known are:\n${known.join('\n')}`,
    { fix: 'Make a profile with `ninelives profile make` (docs/guides/make-a-profile.md).' },
  );
}

/** Where this very build runs; `undefined` where it does not. */
function locateBuild(view: View, profile: Profile): Xen | undefined {
  const start = BigInt(profile.constant('XEN_VIRT_START'));
  const note = profile.symbol(NOTE_SYMBOL);
  const noteOffset = Number(note - start);
  const want = [...NOTE_HEADER, ...Buffer.from(profile.buildId, 'hex')];
  for (let base = 0; base < view.physicalSize; base += SUPERPAGE) {
    if (!matches(view, base + noteOffset, want)) continue;
    const root = physical(base + Number(profile.symbol('idle_pg_table') - start));
    // The loader's copy of the image matches as well; the live one is the one that its own page table maps.
    if (translate(view, root, note)?.physical === base + noteOffset) return Xen.at(profile, view, root);
  }
  return undefined;
}

function matches(view: View, address: number, want: readonly number[]): boolean {
  const page = view.page(Math.floor(address / PAGE_SIZE));
  const at = address % PAGE_SIZE;
  if (page === undefined || page[at + 12] !== want[12] || at + want.length > PAGE_SIZE) return false;
  return want.every((byte, i) => page[at + i] === byte);
}

/** Build-ids of all images that begin on a 2 MiB boundary, for the error message. */
function findBuildIds(view: View): string[] {
  const found = new Set<string>();
  const pages = Math.floor(view.physicalSize / PAGE_SIZE);
  const header = Buffer.from(NOTE_HEADER);
  for (let frame = 0; frame < pages && found.size < 4; frame++) {
    const page = view.page(frame);
    if (page === undefined) continue;
    const at = Buffer.from(page.buffer, page.byteOffset, page.byteLength).indexOf(header);
    if (at < 0 || at + 36 > PAGE_SIZE) continue;
    found.add(Buffer.from(page.subarray(at + 16, at + 36)).toString('hex'));
  }
  return [...found];
}

/**
 * Invariants, not hope: what must hold of any Xen that this profile describes.
 * @throws NL_PROFILE_MISMATCH naming the first that does not
 */
export function verifyProfile(xen: Xen): void {
  const check = (holds: boolean, what: string): void => {
    if (holds) return;
    throw new NinelivesError(
      'NL_PROFILE_MISMATCH',
      `profile ${xen.profile.buildId} (Xen ${xen.profile.version}) does not fit the live box: ${what}`,
      { fix: 'Make the profile again from exactly this build, see docs/guides/make-a-profile.md.' },
    );
  };
  const { memory } = xen;
  for (let cpu = 0; cpu < xen.cpuCount; cpu++) {
    const idle = idleVcpu(xen, cpu);
    check(idle !== 0n && memory.isMapped(idle), `idle_vcpu[${cpu}] is ${hex(idle)}`);
    const vcpu = xen.object('vcpu', idle);
    check(vcpu.num('vcpu_id') === cpu, `the idle vCPU of CPU ${cpu} says it is number ${vcpu.num('vcpu_id')}`);
    const domain = vcpu.u64('domain');
    check(memory.isMapped(domain), `the idle vCPU of CPU ${cpu} has no domain`);
    check(xen.object('domain', domain).num('domain_id') === IDLE_DOMAIN, 'the idle domain has another id');
    const stack = cpuStack(xen, cpu);
    check(memory.isMapped(stack.guestFrame), `CPU ${cpu} has no stack`);
    check(stack.base % BigInt(xen.profile.constant('STACK_SIZE')) === 0n, `the stack of CPU ${cpu} is not aligned`);
    check(stack.info.num('processor_id') === cpu, `the stack of CPU ${cpu} is that of another`);
    check(stack.info.u64('per_cpu_offset') === xen.perCpuOffset(cpu), `CPU ${cpu} has another per-CPU area`);
    const resource = memory.u64(xen.perCpu('sched_res', cpu));
    check(memory.isMapped(resource), `CPU ${cpu} has no scheduling resource`);
    check(xen.object('sched_resource', resource).num('master_cpu') === cpu, `CPU ${cpu} is scheduled by another`);
  }
  const first = memory.u64(xen.symbol('domain_list'));
  check(memory.isMapped(first), 'there is no domain yet');
  check(xen.object('domain', first).num('domain_id') === 0, 'the first domain is not dom0');
}
