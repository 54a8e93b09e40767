import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { campaignJsonSchema, readCampaignFile, withValues } from '../../src/campaign/read-file.js';
import { microreset } from '../../src/recover/microreset/index.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const GOOD = `# a comment
name: test
runs: 10
fault:
  type: failstop
trigger:
  type: timer
  delayMs: [50, 600]
`;

function complaint(text: string): string {
  try {
    readCampaignFile(text, 'c.yaml');
  } catch (error) {
    expect(error).toMatchObject({ code: 'NL_CAMPAIGN_INVALID' });
    return (error as Error).message;
  }
  throw new Error('it was accepted');
}

describe('a campaign file', () => {
  it('fills in what is not said', () => {
    expect(readCampaignFile(GOOD, 'c.yaml')).toMatchObject({
      seed: 1,
      golden: false,
      box: { setup: 'default' },
      trigger: { type: 'timer', delayMs: [50, 600] },
      mechanism: { name: 'microreset', without: [] },
      observe: { newVm: 'after-recovery' },
      evidence: { limit: 2048, keep: 'failures' },
    });
  });

  it('takes sizes as people write them', () => {
    const memory = (text: string) => readCampaignFile(`${GOOD}box: {memory: ${text}}\n`, 'c.yaml').box.memory;
    expect([memory('2G'), memory('1.5G'), memory('2048M'), memory('3GiB'), memory('4096')]).toEqual([
      2048, 1536, 2048, 3072, 4096,
    ]);
  });

  it.each([
    [
      'an unknown field',
      GOOD.replace('runs:', 'rnus: 3\nruns:'),
      'c.yaml:3:1: unknown field "rnus" in the file; did you mean "runs"?',
    ],
    [
      'an unknown field of a fault',
      GOOD.replace('failstop', 'failstop\n  bit: 3'),
      'c.yaml:6:3: unknown field "bit" in fault; known are type',
    ],
    [
      'an unknown field of the trigger',
      GOOD.replace('delayMs', 'delaysMs'),
      'c.yaml:8:3: unknown field "delaysMs" in trigger; did you mean "delayMs"?',
    ],
    [
      'an unknown fault',
      GOOD.replace('failstop', 'failstp'),
      'c.yaml:5:9: fault.type must be one of failstop, register, code, memory, hang, lock-leak, software-bug; did you mean "failstop"?',
    ],
    ['an unknown setup', `${GOOD}box: {setup: defualt}\n`, 'c.yaml:9:14: box.setup must be'],
    ['an impossible number', GOOD.replace('runs: 10', 'runs: 0'), 'c.yaml:3:7: runs: Too small'],
    ['a missing field', GOOD.replace('runs: 10\n', ''), 'c.yaml:2:1: runs is missing'],
    ['a missing fault', GOOD.replace('fault:\n  type: failstop\n', ''), 'c.yaml:2:1: fault is missing'],
    ['a size that is none', `${GOOD}box:\n  memory: 2X\n`, 'c.yaml:10:11: box.memory: a size such as 2G or 512M'],
    ['too much memory', `${GOOD}box:\n  memory: 64G\n`, 'c.yaml:10:11: the memory must be 1G to 16G'],
    ['an unknown step', `${GOOD}mechanism:\n  without: [lock]\n`, 'c.yaml:10:13: microreset has no step "lock"'],
    ['a fault in a golden campaign', `${GOOD}golden: true\n`, 'c.yaml:5:3: a golden campaign has no fault'],
    ['a variant that says nothing', `${GOOD}variants:\n  - {name: a}\n`, 'a variant has either "without" or "adds"'],
    [
      'counting on a box whose clock follows instructions',
      `${GOOD}box: {clock: instructions}\n`,
      'use the trigger "function"',
    ],
    [
      'a range the wrong way round',
      GOOD.replace('[50, 600]', '[600, 50]'),
      'c.yaml:8:12: trigger.delayMs: the first number',
    ],
    ['what is not YAML', `${GOOD}box: {\n`, 'c.yaml:10:1: '],
  ])('is refused with the place of %s', (_, text, expected) => {
    expect(complaint(text)).toContain(expected);
  });

  it('is refused with everything that is wrong, not just the first thing', () => {
    expect(complaint(GOOD.replace('10', 'many').replace('delayMs', 'delay')).split('\n').length).toBe(2);
  });

  it('keeps its comments when values are set', () => {
    const text = withValues(GOOD, { runs: 3, seed: 9 });
    expect(text).toContain('# a comment');
    expect(readCampaignFile(text, 'c.yaml')).toMatchObject({ runs: 3, seed: 9, name: 'test' });
  });
});

describe('the JSON Schema for editors', () => {
  it('is the one in the docs', () => {
    const file = join(ROOT, 'docs/reference/campaign.schema.json');
    expect(JSON.parse(readFileSync(file, 'utf8')), 'run: node scripts/campaign-schema.mjs').toEqual(
      campaignJsonSchema(),
    );
  });
});

describe('the campaigns that come with ninelives', () => {
  const names = readdirSync(join(ROOT, 'campaigns'));

  it('leave out every step but the last, one by one', () => {
    const text = readFileSync(join(ROOT, 'campaigns/ablation-leave-one-out.yaml'), 'utf8');
    const left = readCampaignFile(text, 'c.yaml').variants!.flatMap(({ without }) => without ?? []);
    expect(left).toEqual(microreset.steps.map(({ name }) => name).filter((name) => name !== 'place-cpus'));
  });

  it('include those of the papers', () => {
    const faults = ['failstop', 'register', 'code'];
    const wanted = faults.flatMap((fault) => ['1appvm', '3appvm'].map((setup) => `nilihype-${fault}-${setup}.yaml`));
    expect(names).toEqual(expect.arrayContaining([...wanted, 'smoke.yaml', 'golden-3appvm.yaml']));
  });

  it.each(names)('%s is valid, named like its file, and points to its schema', (name) => {
    const text = readFileSync(join(ROOT, 'campaigns', name), 'utf8');
    expect(text).toContain('yaml-language-server: $schema=../docs/reference/campaign.schema.json');
    expect(`${readCampaignFile(text, name).name}.yaml`).toBe(name);
  });
});
