/** Who is who on the box's network: the supervisor outside, and the AppVMs behind dom0's bridge. All addresses are static. */

export interface Station {
  /** Such as "02:9e:00:00:00:01". */
  readonly mac: string;
  /** Such as "10.9.0.1". */
  readonly ip: string;
}

/** The sender of the pings. Its addresses never change: a guest restored from a snapshot meets the station that it knows. */
export const OUTSIDE: Station = { mac: '02:9e:00:00:00:01', ip: '10.9.0.1' };
export const OUTSIDE_PORT = 9009;
/** Of dom0's emulated network card, which has no IP address: it is a port of the bridge. */
export const CARD_MAC = '02:9e:00:00:00:02';
/** Port of the echo service (RFC 862). */
export const ECHO_PORT = 7;
/** Length of the prefix, as `ip addr` takes it. */
export const PREFIX_LENGTH = 24;

/** Of the AppVM that is at this place in the box's list of guests, 0 to 99. Xen's own range of MAC addresses is 00:16:3e. */
export const guestStation = (index: number): Station => ({
  mac: `00:16:3e:09:00:${(index + 16).toString(16).padStart(2, '0')}`,
  ip: `10.9.0.${index + 16}`,
});
