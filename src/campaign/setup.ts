/** The box of a campaign. */
import { type BoxSpec, checkBoxSpec, DEFAULT_BOX } from '../testbed/spec.js';
import type { CampaignFile } from './file.js';

export const SETUP_NAMES = ['default'] as const;

/** @throws NL_USAGE where the setup does not fit into the box */
export function boxSpecOf({ box }: CampaignFile): BoxSpec {
  const { cpus, memory, xen } = box;
  const spec: BoxSpec = {
    ...DEFAULT_BOX,
    ...(cpus === undefined ? {} : { cpus }),
    ...(memory === undefined ? {} : { memoryMiB: memory }),
    ...(xen === undefined ? {} : { xenVersion: xen }),
  };
  checkBoxSpec(spec);
  return spec;
}
