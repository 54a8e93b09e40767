/** The box of a campaign. */
import { setupSpec } from '../testbed/setups.js';
import { type BoxSpec, checkBoxSpec } from '../testbed/spec.js';
import type { CampaignFile } from './file.js';

/** @throws NL_USAGE where the setup does not fit into the box */
export function boxSpecOf({ box }: Pick<CampaignFile, 'box'>): BoxSpec {
  const { setup, guests, cpus, memory, clock, xen } = box;
  const spec: BoxSpec = {
    ...setupSpec(setup, {
      clock,
      ...(guests === undefined ? {} : { guests }),
      ...(cpus === undefined ? {} : { cpus }),
      ...(memory === undefined ? {} : { memoryMiB: memory }),
    }),
    ...(xen === undefined ? {} : { xenVersion: xen }),
  };
  checkBoxSpec(spec);
  return spec;
}
