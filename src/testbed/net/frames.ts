/**
 * Ethernet, ARP, IPv4 and UDP, as far as a host with one neighbour needs them: no options, no fragments, no VLANs. Pure.
 * Formats: RFC 826 (ARP), 791 (IPv4), 768 (UDP); checksums: RFC 1071.
 */
import type { Station } from './addresses.js';

export interface Endpoint extends Station {
  /** 0..65535 */
  readonly port: number;
}

export interface Datagram {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly payload: Buffer;
}

export interface ArpRequest {
  readonly from: Station;
  /** The address whose owner is asked for. */
  readonly wanted: string;
}

const TYPE = { ipv4: 0x0800, arp: 0x0806 } as const;
const ETHERNET = 14;
const IPV4 = 20;
const UDP = 8;
const ARP = 28;
/** Without the checksum, which the wire has and no network card hands on. */
const SHORTEST_FRAME = 60;
const PROTOCOL_UDP = 17;
const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const TIME_TO_LIVE = 64;
const DONT_FRAGMENT = 0x4000;
/** More-fragments flag and fragment offset. */
const FRAGMENT = 0x3fff;

/** A frame with one UDP datagram. `payload`: at most 1472 bytes. */
export function udpFrame({ from, to, payload }: Datagram): Buffer {
  const length = UDP + payload.length;
  const frame = Buffer.alloc(Math.max(SHORTEST_FRAME, ETHERNET + IPV4 + length));
  writeEthernet(frame, from.mac, to.mac, TYPE.ipv4);

  const ip = frame.subarray(ETHERNET, ETHERNET + IPV4 + length);
  ip[0] = 0x45; // version 4, five words of header
  ip.writeUInt16BE(ip.length, 2);
  ip.writeUInt16BE(DONT_FRAGMENT, 6);
  ip[8] = TIME_TO_LIVE;
  ip[9] = PROTOCOL_UDP;
  writeIp(ip, 12, from.ip);
  writeIp(ip, 16, to.ip);
  ip.writeUInt16BE(checksum(ip.subarray(0, IPV4)), 10);

  const udp = ip.subarray(IPV4);
  udp.writeUInt16BE(from.port, 0);
  udp.writeUInt16BE(to.port, 2);
  udp.writeUInt16BE(length, 4);
  payload.copy(udp, UDP);
  // A computed 0 is sent as its other form, since 0 means "none" (RFC 768).
  udp.writeUInt16BE(checksum(udp, pseudoHeaderSum(ip, length)) || 0xffff, 6);
  return frame;
}

/** The datagram in a frame; `undefined` for anything else, and for what a checksum says is damaged. */
export function parseUdp(frame: Buffer): Datagram | undefined {
  if (frame.length < ETHERNET + IPV4 + UDP || frame.readUInt16BE(12) !== TYPE.ipv4) return undefined;
  const total = frame.readUInt16BE(ETHERNET + 2);
  if (frame[ETHERNET] !== 0x45 || total < IPV4 + UDP || ETHERNET + total > frame.length) return undefined;
  const ip = frame.subarray(ETHERNET, ETHERNET + total);
  if (ip[9] !== PROTOCOL_UDP || (ip.readUInt16BE(6) & FRAGMENT) !== 0 || checksum(ip.subarray(0, IPV4)) !== 0)
    return undefined;
  const udp = ip.subarray(IPV4);
  const length = udp.readUInt16BE(4);
  if (length < UDP || length > udp.length) return undefined;
  const whole = udp.subarray(0, length);
  if (udp.readUInt16BE(6) !== 0 && checksum(whole, pseudoHeaderSum(ip, length)) !== 0) return undefined;
  return {
    from: { mac: readMac(frame, 6), ip: readIp(ip, 12), port: udp.readUInt16BE(0) },
    to: { mac: readMac(frame, 0), ip: readIp(ip, 16), port: udp.readUInt16BE(2) },
    payload: whole.subarray(UDP),
  };
}

/** The question in a frame; `undefined` for anything else. */
export function parseArpRequest(frame: Buffer): ArpRequest | undefined {
  if (frame.length < ETHERNET + ARP || frame.readUInt16BE(12) !== TYPE.arp) return undefined;
  const arp = frame.subarray(ETHERNET, ETHERNET + ARP);
  if (!arp.subarray(0, 6).equals(ARP_HEAD) || arp.readUInt16BE(6) !== 1) return undefined;
  return { from: { mac: readMac(arp, 8), ip: readIp(arp, 14) }, wanted: readIp(arp, 24) };
}

/** "Who has `wanted`?", to everybody. */
export const arpRequestFrame = (from: Station, wanted: string): Buffer =>
  arpFrame(1, from, { mac: '00:00:00:00:00:00', ip: wanted }, BROADCAST);

/** "I have." */
export const arpReplyFrame = (from: Station, to: Station): Buffer => arpFrame(2, from, to, to.mac);

/** Ethernet and IPv4, with addresses of 6 and 4 bytes. */
const ARP_HEAD = Buffer.from([0, 1, 8, 0, 6, 4]);

function arpFrame(operation: 1 | 2, from: Station, to: Station, destination: string): Buffer {
  const frame = Buffer.alloc(SHORTEST_FRAME);
  writeEthernet(frame, from.mac, destination, TYPE.arp);
  const arp = frame.subarray(ETHERNET);
  ARP_HEAD.copy(arp);
  arp.writeUInt16BE(operation, 6);
  writeMac(arp, 8, from.mac);
  writeIp(arp, 14, from.ip);
  writeMac(arp, 18, to.mac);
  writeIp(arp, 24, to.ip);
  return frame;
}

function writeEthernet(frame: Buffer, from: string, to: string, type: number): void {
  writeMac(frame, 0, to);
  writeMac(frame, 6, from);
  frame.writeUInt16BE(type, 12);
}

const writeMac = (at: Buffer, offset: number, mac: string): void => {
  at.write(mac.replaceAll(':', ''), offset, 6, 'hex');
};

const readMac = (at: Buffer, offset: number): string =>
  at.toString('hex', offset, offset + 6).replace(/(..)(?=.)/g, '$1:');

const writeIp = (at: Buffer, offset: number, ip: string): void => {
  at.set(ip.split('.').map(Number), offset);
};

const readIp = (at: Buffer, offset: number): string => at.subarray(offset, offset + 4).join('.');

/** What the checksum of UDP covers beside the datagram: both addresses, the protocol and the length. */
const pseudoHeaderSum = (ip: Buffer, udpLength: number): number =>
  sumOf(ip.subarray(12, 20)) + PROTOCOL_UDP + udpLength;

/** 0 over data that carries its own right checksum. */
function checksum(data: Buffer, start: number = 0): number {
  let sum = start + sumOf(data);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Of 16-bit words; an odd last byte is the upper half of one. */
function sumOf(data: Buffer): number {
  let sum = 0;
  for (let i = 0; i + 1 < data.length; i += 2) sum += data.readUInt16BE(i);
  return data.length % 2 === 0 ? sum : sum + (data[data.length - 1]! << 8);
}
