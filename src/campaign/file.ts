/**
 * The campaign file: what stands in it, what its fields mean, and what is not allowed. `docs/reference/campaign.schema.json` is made
 * from this schema, for editors; `docs/reference/campaign.md` describes it for people.
 */
import { z } from 'zod';
import { faultSchema, triggerSchema } from '../inject/index.js';
import { SETUP_NAMES } from '../testbed/setups.js';
import { MECHANISM_NAMES } from './mechanisms.js';

const MIB_OF: Readonly<Record<string, number>> = { M: 1, MiB: 1, G: 1024, GiB: 1024 };

/** `2G`, `2048M`, `512MiB`, or a number of MiB. Becomes MiB. */
const size = (what: string) =>
  z
    .union([z.int().min(1), z.string().regex(/^\d+(\.\d+)?(M|MiB|G|GiB)$/, 'a size such as 2G or 512M')])
    .describe(what)
    .transform((value) => {
      if (typeof value === 'number') return value;
      const [, number = '', , unit = 'M'] = /^(\d+(\.\d+)?)(\w+)$/.exec(value) ?? [];
      return Math.round(Number(number) * (MIB_OF[unit] ?? 1));
    });

const milliseconds = (low: number, high: number, fallback: number, what: string) =>
  z.int().min(low).max(high).default(fallback).describe(`${what}, in milliseconds`);

const boxSchema = z.strictObject({
  setup: z.enum(SETUP_NAMES).default('default').describe('which VMs there are, what they do, and how they are placed'),
  guests: z.enum(['pv', 'pvh', 'mixed']).optional().describe("kind of the AppVMs; default: the setup's"),
  cpus: z.int().min(1).max(16).optional().describe("processors of the box; default: the setup's"),
  memory: size("memory of the box, 1G to 16G; default: the setup's").optional(),
  clock: z
    .enum(['host', 'instructions'])
    .default('host')
    .describe('what the clock of the box follows; with instructions its CPUs take turns and runs repeat more often'),
  xen: z.string().optional().describe("start of Debian's version of Xen, as in 4.17.5; default: apt's candidate"),
});

const observeSchema = z.strictObject({
  quietMs: milliseconds(0, 600_000, 3000, 'without a failure, and with every VM at work, for so long: not manifested'),
  quietSteps: z.int().min(1).max(1000).default(3).describe('steps of work that each VM must have done by then'),
  detectionMs: milliseconds(100, 600_000, 10_000, 'a failure that is not seen within this time will not be seen'),
  revivalMs: milliseconds(100, 600_000, 20_000, 'a VM that does not work again this long after a recovery is lost'),
  newVmMs: milliseconds(100, 600_000, 60_000, 'limit for creating a new VM, and again for its first step of work'),
  newVm: z
    .enum(['after-recovery', 'always', 'never'])
    .default('after-recovery')
    .describe('whether a new VM is created; without it no recovery counts as a success'),
});

const mechanismSchema = z.strictObject({
  name: z.enum(MECHANISM_NAMES).default('microreset').describe('how the hypervisor is recovered'),
  without: z.array(z.string()).default([]).describe('steps of the mechanism that are left out, by name'),
  commitUnchecked: z.boolean().default(false).describe('carry out a plan that did not pass its check'),
});

export const campaignFileSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]*$/, 'lower-case letters, digits and hyphens')
    .describe('name of the experiment'),
  description: z.string().optional().describe('what it is to find out'),
  runs: z.int().min(1).max(1_000_000).describe('number of runs; of each variant, where there are variants'),
  seed: z.int().min(0).max(0xffff_ffff).default(1).describe('every random choice follows from it'),
  golden: z.boolean().default(false).describe('run without a fault, to check the verdict itself'),
  box: boxSchema.prefault({}),
  fault: faultSchema.optional().describe('what is broken'),
  trigger: triggerSchema.optional().describe('when it is broken'),
  mechanism: mechanismSchema.prefault({}),
  guard: z
    .strictObject({
      text: z
        .enum(['ignore', 'watch'])
        .default('ignore')
        .describe('whether damage to text is looked for, or only what the hypervisor does for it counts as a failure'),
    })
    .prefault({}),
  variants: z
    .array(
      z.strictObject({
        name: z.string().min(1).describe('name of the variant, for tables'),
        without: z.array(z.string()).optional().describe('steps of the mechanism that this variant leaves out'),
        adds: z
          .array(z.string())
          .optional()
          .describe('all that this variant has are these steps, and those of the variants before it that have "adds"'),
      }),
    )
    .min(1)
    .optional()
    .describe('series with the same plan of runs, each with other steps left out'),
  observe: observeSchema.prefault({}),
  evidence: z
    .strictObject({
      limit: size('size of all evidence above which the oldest is removed').default(2048),
      keep: z
        .enum(['failures', 'all', 'none'])
        .default('failures')
        .describe('of which runs capsule and consoles are kept: those that failed, all that were detected, or none'),
    })
    .prefault({}),
});

/** A campaign file, checked, with all defaults filled in. Sizes are in MiB. */
export type CampaignFile = z.output<typeof campaignFileSchema>;

type Variant = NonNullable<CampaignFile['variants']>[number];

/** What the schema alone does not say. Path into the file, and what is wrong there. */
export interface Objection {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** @param steps names of the steps of a mechanism */
export function objectionsTo(file: CampaignFile, steps: (mechanism: string) => readonly string[]): Objection[] {
  const found: Objection[] = [];
  const object = (path: Objection['path'], message: string) => found.push({ path, message });
  if (file.golden) {
    if (file.fault !== undefined)
      object(['fault'], 'a golden campaign has no fault: leave it out, or set golden to false');
    if (file.trigger !== undefined) object(['trigger'], 'a golden campaign has no trigger: leave it out');
    if (file.variants !== undefined) object(['variants'], 'a golden campaign recovers nothing: leave out the variants');
  } else {
    if (file.fault === undefined) object([], 'fault is missing, as in "fault: {type: failstop}"');
    if (file.trigger === undefined) object([], 'trigger is missing, as in "trigger: {type: timer}"');
  }
  if (file.box.clock === 'instructions') {
    const { trigger, fault } = file;
    const why = 'the clock "instructions" stands still for a box of which single CPUs were run';
    if (trigger !== undefined && trigger.type !== 'function')
      object(['trigger', 'type'], `${why}: use the trigger "function"`);
    if (fault?.type === 'software-bug') object(['fault', 'type'], `${why}: use another fault`);
  }
  const { memory } = file.box;
  if (memory !== undefined && (memory < 1024 || memory > 16_384))
    object(['box', 'memory'], 'the memory must be 1G to 16G');
  const known = steps(file.mechanism.name);
  const check = (path: Objection['path'], names: readonly string[]) => {
    for (const [index, name] of names.entries())
      if (!known.includes(name))
        object([...path, index], `${file.mechanism.name} has no step "${name}"; it has ${known.join(', ')}`);
  };
  const checkVariant = (path: Objection['path'], { without, adds }: Variant) => {
    if ((without === undefined) === (adds === undefined)) object(path, 'a variant has either "without" or "adds"');
    check([...path, 'without'], without ?? []);
    check([...path, 'adds'], adds ?? []);
  };
  check(['mechanism', 'without'], file.mechanism.without);
  for (const [index, variant] of (file.variants ?? []).entries()) checkVariant(['variants', index], variant);
  return found;
}
