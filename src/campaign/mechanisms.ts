/** The mechanisms that a campaign can choose from, by name. */
import type { Mechanism } from '../recover/mechanism.js';
import { microreset } from '../recover/microreset/index.js';

export const MECHANISM_NAMES = ['microreset'] as const;
export type MechanismName = (typeof MECHANISM_NAMES)[number];

export const MECHANISMS: Readonly<Record<MechanismName, Mechanism>> = { microreset };

export const stepsOf = (name: string): readonly string[] =>
  MECHANISMS[name as MechanismName].steps.map((step) => step.name);
