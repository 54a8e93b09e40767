import { describe, expect, it } from 'vitest';
import { classify, type Observed } from '../../src/campaign/classify.js';
import type { VmVerdict } from '../../src/workload/verdict.js';

const well = (name: string, kind: VmVerdict['kind'] = 'pv'): VmVerdict => ({
  name,
  kind,
  alive: true,
  intact: true,
  progress: 5,
});
const hurt = (name: string, kind: VmVerdict['kind'] = 'pv'): VmVerdict => ({
  ...well(name, kind),
  alive: false,
  intact: false,
  reason: 'it stands at step 7',
});
const VMS = [well('dom0', 'dom0'), well('app1'), well('app2')];
const CREATED = { kind: 'created', name: 'new1', createMs: 1, workingMs: 2 } as const;
const NOT_CREATED = { kind: 'failed', name: 'new1', reason: 'xl create: status 1' } as const;

const detected = (other: Partial<Observed> = {}) =>
  classify({ injection: 'injected', failures: ['page fault'], resumed: 1, vms: VMS, newVm: CREATED, ...other });

describe('a detected failure', () => {
  it('affects no VM when all are well and a new one was created', () => {
    expect(detected()).toEqual({ outcome: 'detected', end: 'no-vmf' });
  });

  it.each([
    ['one-vm', { vms: [VMS[0]!, hurt('app1'), VMS[2]!] }, 'app1: it stands at step 7'],
    ['vms', { vms: [VMS[0]!, hurt('app1'), hurt('app2')] }, 'app1: it stands at step 7; app2: it stands at step 7'],
    ['privvm', { vms: [hurt('dom0', 'dom0'), VMS[1]!, VMS[2]!], newVm: undefined }, 'dom0: it stands at step 7'],
    ['no-new-vm', { newVm: NOT_CREATED }, 'no new VM: xl create: status 1'],
    [
      'no-new-vm',
      { newVm: NOT_CREATED, vms: [VMS[0]!, hurt('app1'), VMS[2]!] },
      'app1: it stands at step 7; no new VM',
    ],
    ['not-recoverable', { resumed: 0, lost: 'the run queue is inconsistent' }, 'the run queue is inconsistent'],
    [
      'failed-again',
      { failures: ['page fault', 'BUG'], lost: 'the plan was refused' },
      'the plan was refused; failed again after the recovery: BUG',
    ],
  ] as const)('ends as %s', (end, other, cause) => {
    const found = detected(other);
    expect(found).toMatchObject({ outcome: 'detected', end });
    expect(found.cause).toContain(cause);
  });

  it('is a success all the same when a second failure was recovered as well', () => {
    expect(detected({ failures: ['page fault', 'BUG'], resumed: 2 })).toEqual({ outcome: 'detected', end: 'no-vmf' });
  });

  it('is no success without a new VM', () => {
    expect(detected({ newVm: undefined }).end).toBe('no-new-vm');
  });
});

describe('a fault that nothing detected', () => {
  it('did not manifest itself when all VMs are well', () => {
    expect(detected({ failures: [], resumed: 0, newVm: undefined })).toEqual({ outcome: 'not-manifested' });
  });

  it('is silent data corruption when a VM is affected', () => {
    const found = detected({ failures: [], resumed: 0, newVm: undefined, vms: [VMS[0]!, hurt('app1')] });
    expect(found).toEqual({ outcome: 'sdc', cause: 'the failure was not detected; app1: it stands at step 7' });
  });

  it('is silent data corruption when no new VM can be created', () => {
    expect(detected({ failures: [], resumed: 0, newVm: NOT_CREATED }).outcome).toBe('sdc');
  });
});

describe('a run without a fault', () => {
  const golden = (other: Partial<Observed> = {}) =>
    detected({ injection: 'golden', failures: [], resumed: 0, ...other });

  it('is golden when all is well', () => {
    expect(golden()).toEqual({ outcome: 'golden' });
  });

  it.each([
    ['a failure', { failures: ['BUG at x'], resumed: 1 }],
    ['a VM that is not well', { vms: [hurt('dom0', 'dom0')] }],
    ['a new VM that cannot be created', { newVm: NOT_CREATED }],
  ] as const)('is a false alarm when there was %s', (_, other) => {
    expect(golden(other)).toMatchObject({ outcome: 'false-alarm', cause: expect.any(String) as string });
  });
});

describe('a point that was not reached', () => {
  it('is told as such', () => {
    expect(detected({ injection: { notReached: 'no CPU' }, failures: [], vms: [] })).toEqual({
      outcome: 'not-reached',
      cause: 'no CPU',
    });
  });

  it('is a false alarm when the box failed by itself', () => {
    expect(detected({ injection: { notReached: 'no CPU' } }).outcome).toBe('false-alarm');
  });
});
