/** Campaigns: what other parts of ninelives, such as reports, use of them. */
export { type Comparison, compareRecords, type RateComparison } from './compare.js';
export type { CampaignFile } from './file.js';
export { type Campaign, type Meta, readCampaign, type Versions } from './folder.js';
export type { Damage } from './log.js';
export { parseRunName, type RunId, runName } from './plan.js';
export { isSuccess, RECOVERY_ENDS, type RecoveryEnd, type RunRecord } from './record.js';
export { isNoteworthy } from './run-record.js';
export { type CampaignSummary, type Rate, rate, summarizeRecords, type Times } from './summary.js';
