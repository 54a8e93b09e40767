/** Event channels of a synthetic Xen. */
import type { FakeXen } from './fake-xen.js';

/** Gives a domain its only bucket, of so many channels that nobody uses. @returns its address */
export function newBucket(fake: FakeXen, domain: bigint, channels: number): bigint {
  const size = fake.profile.struct('evtchn').size;
  const bucket = fake.alloc(channels * size, 64);
  fake.set('domain', domain, 'evtchn', bucket);
  fake.set('domain', domain, 'valid_evtchns', channels);
  for (let port = 0; port < channels; port++) fake.set('evtchn', bucket + BigInt(port * size), 'port', port);
  return bucket;
}
