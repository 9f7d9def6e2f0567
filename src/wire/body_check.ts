/**
 * Checks what a body contains before msgpackr sees it.
 *
 * A message is one array of nil, booleans, integers, float64 (which carries integers from 2^32 on), text, bytes and
 * arrays. The check refuses everything else that MessagePack or msgpackr knows: maps, timestamps and above all
 * extensions, because msgpackr's records compile a function from names that the peer sends. It refuses a length that
 * the body does not have before anyone makes an array of that length, and deeper nesting than any message of ours
 * before it fills the stack.
 */

import { FsError } from '../base/errno.js';

/** ReaddirReply: message, list, entry, attr, timespec. Later messages may go a little deeper. */
const DEPTH_MAX = 8;

/** Number of bytes that follow the token of a fixed-size value, indexed by token - 0xca; 0: not allowed. */
const FIXED_BYTES = [
  0, // 0xca float32: no peer of ours sends it
  8, // 0xcb float64
  1, // 0xcc u8
  2, // 0xcd u16
  4, // 0xce u32
  8, // 0xcf u64
  1, // 0xd0 i8
  2, // 0xd1 i16
  4, // 0xd2 i32
  8, // 0xd3 i64
];

/** @throws FsError EPROTO unless the body is exactly one value of the allowed kinds. */
export function checkBody(body: Uint8Array): void {
  const end = checkValue(body, 0, 0);
  if (end !== body.length) throw new FsError('EPROTO', `${body.length - end} bytes behind the message`);
}

/** @returns the offset at which the value that starts at `at` ends. */
function checkValue(body: Uint8Array, at: number, depth: number): number {
  const token = byteAt(body, at);
  if (token < 0x80 || token >= 0xe0) return at + 1; // small integers
  if (token >= 0xca && token <= 0xd3) {
    const bytes = FIXED_BYTES[token - 0xca] as number;
    if (bytes === 0) throw new FsError('EPROTO', 'float32 in a message');
    return skip(body, at + 1, bytes);
  }
  if (token >= 0xa0 && token < 0xc0) return skip(body, at + 1, token - 0xa0); // short text
  if (token >= 0x90 && token < 0xa0) return checkArray(body, at + 1, token - 0x90, depth);
  switch (token) {
    case 0xc0: // nil
    case 0xc2: // false
    case 0xc3: // true
      return at + 1;
    case 0xc4: // bytes
    case 0xd9: // text
      return skip(body, at + 2, lengthAt(body, at + 1, 1));
    case 0xc5:
    case 0xda:
      return skip(body, at + 3, lengthAt(body, at + 1, 2));
    case 0xc6:
    case 0xdb:
      return skip(body, at + 5, lengthAt(body, at + 1, 4));
    case 0xdc:
      return checkArray(body, at + 3, lengthAt(body, at + 1, 2), depth);
    case 0xdd:
      return checkArray(body, at + 5, lengthAt(body, at + 1, 4), depth);
    default:
      throw new FsError('EPROTO', `value of kind 0x${token.toString(16)} in a message`);
  }
}

function checkArray(body: Uint8Array, at: number, length: number, depth: number): number {
  if (depth >= DEPTH_MAX) throw new FsError('EPROTO', `nested deeper than ${DEPTH_MAX}`);
  // Each item has at least one byte, so a longer array cannot fit into the body.
  if (length > body.length - at) throw new FsError('EPROTO', 'the message ends early');
  let position = at;
  for (let i = 0; i < length; i += 1) position = checkValue(body, position, depth + 1);
  return position;
}

function skip(body: Uint8Array, at: number, bytes: number): number {
  if (at + bytes > body.length) throw new FsError('EPROTO', 'the message ends early');
  return at + bytes;
}

function lengthAt(body: Uint8Array, at: number, bytes: number): number {
  let length = 0;
  for (let i = 0; i < bytes; i += 1) length = length * 256 + byteAt(body, at + i);
  return length;
}

function byteAt(body: Uint8Array, at: number): number {
  const byte = body[at];
  if (byte === undefined) throw new FsError('EPROTO', 'the message ends early');
  return byte;
}
