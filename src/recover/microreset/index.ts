/**
 * Microreset (Zhou and Tamir, DSN 2018): abandon all that the hypervisor was doing, roll its state forward to a valid
 * one, have every request retried. The order matters: frames are completed before requests are judged by them, what
 * runs where is settled before wake-ups are planned, and CPUs are placed last, when all their calls are known.
 */
import type { Mechanism } from '../mechanism.js';
import { batchProgress } from './batch-progress.js';
import { bounceFrames } from './bounce-frames.js';
import { completeFrames } from './complete-frames.js';
import { contextSwitch } from './context-switch.js';
import { cpuInfo } from './cpu-info.js';
import { descriptorTables } from './descriptor-tables.js';
import { domctl } from './domctl.js';
import { eventBinds } from './event-binds.js';
import { eventChannels } from './event-channels.js';
import { fixedFields } from './fixed-fields.js';
import { fpuState } from './fpu-state.js';
import { grantPins } from './grant-pins.js';
import { grantProgress } from './grant-progress.js';
import { guestAreas } from './guest-areas.js';
import { inServiceVectors } from './in-service.js';
import { interruptHandlers } from './interrupt-handlers.js';
import { keptWords } from './kept-words.js';
import { lineControllers } from './line-controllers.js';
import { heapLocksStep, staticLocksStep } from './locks.js';
import { lostStacks } from './lost-stacks.js';
import { lostWakeups } from './lost-wakeups.js';
import { mappings } from './mappings.js';
import { memoryOps } from './memory-ops.js';
import { pageAllocator } from './page-allocator.js';
import { pageFrames, pageFramesBy } from './page-frames.js';
import { pageTables, pageTablesBy } from './page-tables.js';
import { pauses } from './pauses.js';
import { pendingEoisStep } from './pending-eois.js';
import { perCpuState } from './per-cpu-state.js';
import { placeCpus } from './place-cpus.js';
import { rcu } from './rcu.js';
import { rendezvous } from './rendezvous.js';
import { retryHypercalls } from './retry-hypercalls.js';
import { scheduling } from './scheduling.js';
import { softirqs } from './softirqs.js';
import { systemTime } from './system-time.js';
import { tasklets } from './tasklets.js';
import { text } from './text.js';
import { timers } from './timers.js';
import { vectorLines } from './vector-lines.js';
import { vmExits } from './vm-exits.js';
import { xenSlots } from './xen-slots.js';

export const microreset: Mechanism = {
  name: 'microreset',
  steps: [
    text,
    descriptorTables,
    lostStacks,
    cpuInfo,
    keptWords,
    fixedFields,
    vectorLines,
    lineControllers,
    completeFrames,
    bounceFrames,
    batchProgress,
    grantProgress,
    memoryOps,
    eventBinds,
    domctl,
    retryHypercalls,
    vmExits,
    perCpuState,
    eventChannels,
    staticLocksStep,
    heapLocksStep,
    pageAllocator,
    pageFrames,
    pageTables,
    xenSlots,
    grantPins,
    mappings,
    rendezvous,
    contextSwitch,
    fpuState,
    systemTime,
    guestAreas,
    pauses,
    scheduling,
    timers,
    tasklets,
    rcu,
    interruptHandlers,
    pendingEoisStep,
    inServiceVectors,
    softirqs,
    lostWakeups,
    placeCpus,
  ],
};

/** The same with page frames looked for in all of the frame table: for comparison, in speed and in what is found. */
export const microresetByScan: Mechanism = {
  name: 'microreset-by-scan',
  steps: microreset.steps.map((step) => {
    if (step === pageFrames) return pageFramesBy('everywhere');
    return step === pageTables ? pageTablesBy('everywhere') : step;
  }),
};
