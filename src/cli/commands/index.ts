/** All commands, in the order in which the help shows them. */
import type { Command } from '../command.js';
import { doctor } from './doctor.js';
import { inspect } from './inspect.js';
import { profileMake } from './profile-make.js';

export const COMMANDS: readonly Command[] = [inspect, doctor, profileMake];
