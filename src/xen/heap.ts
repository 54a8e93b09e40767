/** Objects that hang off a domain in tables and buckets: event channels and grant entries. */
import { PAGE_SIZE } from '../x86/address.js';
import type { Domain } from './domains.js';
import type { XenObject } from './object.js';
import type { Xen } from './xen.js';

/** Buckets of event channels that are allocated (Xen 4.17: xen/event.h `evtchn_from_port`). */
export function* eventChannelBuckets(xen: Xen, domain: Domain): Generator<{ address: bigint; channels: number }> {
  const channels = powerOfTwoBelow(PAGE_SIZE / xen.sizeOf('evtchn'));
  const bucketsPerGroup = PAGE_SIZE / 8;
  // As this Xen has it: pointers in it may have been repaired since the domains were listed.
  const object = xen.object('domain', domain.address);
  const valid = object.num('valid_evtchns');
  for (let bucket = 0; bucket * channels < valid; bucket++) {
    const group = Math.floor(bucket / bucketsPerGroup);
    const table = object.u64(`evtchn_group[${group}]`);
    const address = bucket === 0 ? object.u64('evtchn') : bucketAt(xen, table, bucket % bucketsPerGroup);
    if (address !== 0n) yield { address, channels };
  }
}

/** The channels of one bucket. */
export function eventChannelsIn(xen: Xen, bucket: bigint, channels: number): XenObject[] {
  const size = xen.sizeOf('evtchn');
  return Array.from({ length: channels }, (_, n) => xen.object('evtchn', bucket + BigInt(n * size)));
}

/** Event channels whose bucket is allocated. */
export function* eventChannels(xen: Xen, domain: Domain): Generator<XenObject> {
  for (const { address, channels } of eventChannelBuckets(xen, domain)) yield* eventChannelsIn(xen, address, channels);
}

/** The channel behind a port; `undefined` where the domain has none of that number. */
export function eventChannel(xen: Xen, domain: Domain, port: number): XenObject | undefined {
  let first = 0;
  for (const { address, channels } of eventChannelBuckets(xen, domain)) {
    if (port < first + channels) return xen.object('evtchn', address + BigInt((port - first) * xen.sizeOf('evtchn')));
    first += channels;
  }
  return undefined;
}

export type ChannelState = 'FREE' | 'RESERVED' | 'UNBOUND' | 'INTERDOMAIN' | 'PIRQ' | 'VIRQ' | 'IPI';

/** A value of `evtchn.state`, by its name without `ECS_`. */
export const channelState = (xen: Xen, name: ChannelState): number => Number(xen.profile.constant(`ECS_${name}`));

/** Whether a channel is for this virtual interrupt. */
export const isForVirq = (xen: Xen, channel: XenObject, virq: number): boolean =>
  channel.num('state') === channelState(xen, 'VIRQ') && channel.num('u.virq') === virq;

const bucketAt = (xen: Xen, table: bigint, index: number): bigint =>
  table === 0n ? 0n : xen.memory.u64(table + BigInt(8 * index));

/** Active grant entries of the frames in use (Xen 4.17: common/grant_table.c `nr_active_grant_frames`). */
export function* grantEntries(xen: Xen, domain: Domain): Generator<XenObject> {
  const address = xen.object('domain', domain.address).u64('grant_table');
  if (address === 0n) return;
  const table = xen.object('grant_table', address);
  const size = xen.sizeOf('active_grant_entry');
  const perPage = Math.floor(PAGE_SIZE / size);
  const entrySize = table.num('gt_version') === 2 ? 16 : 8;
  const entries = (table.num('nr_grant_frames') * PAGE_SIZE) / entrySize;
  const frames = Math.ceil(entries / perPage);
  const active = table.u64('active');
  for (let n = 0; n < frames; n++) {
    const page = xen.memory.u64(active + BigInt(8 * n));
    if (page === 0n) continue;
    for (let k = 0; k < perPage; k++) yield xen.object('active_grant_entry', page + BigInt(k * size));
  }
}

const powerOfTwoBelow = (value: number): number => 2 ** Math.floor(Math.log2(value));
