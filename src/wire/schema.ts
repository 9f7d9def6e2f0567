/**
 * Message schemas. A message is a MessagePack array; a field's number is its position plus one and is never reused. An
 * absent optional field travels as nil, or not at all at the end of the array. The decoder ignores fields beyond those
 * it knows: that is how messages grow. It checks everything before any other code sees it, because peers may be
 * hostile.
 */

import { Packr } from 'msgpackr';
import type { Attr, Timespec } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import { type Fid, NAME_MAX, type Name } from '../base/ids.js';
import { LOCK_OFFSET_MAX, type LockOffset, lockOffset as lockOffsetOf } from '../base/lock_offset.js';
import { checkBody } from './body_check.js';

export interface FieldType<T> {
  readonly label: string;
  /** The message inside this type, if it holds one (nested, list of nested). */
  readonly inner?: Message<unknown> | undefined;
  /** Converts to the shape on the wire; absent if the value travels as it is. */
  pack?(value: T): unknown;
  /** Checks and converts. @throws FsError EPROTO that says what was wrong. */
  unpack(value: unknown): T;
}

export interface Field<T, Optional extends boolean> {
  readonly number: number;
  readonly type: FieldType<T>;
  readonly optional: Optional;
}

export function req<T>(number: number, type: FieldType<T>): Field<T, false> {
  return { number, type, optional: false };
}
export function opt<T>(number: number, type: FieldType<T>): Field<T, true> {
  return { number, type, optional: true };
}

type Fields = Readonly<Record<string, Field<unknown, boolean>>>;
type TypeOf<F> = F extends { readonly type: FieldType<infer T> } ? T : never;

export type MessageOf<F extends Fields> = {
  readonly [K in keyof F as F[K]['optional'] extends true ? never : K]: TypeOf<F[K]>;
} & {
  readonly [K in keyof F as F[K]['optional'] extends true ? K : never]?: TypeOf<F[K]> | undefined;
};

export interface Message<T> {
  readonly name: string;
  /** The fields in the order of their numbers, for the protocol's tables and tests. */
  readonly fields: readonly {
    readonly name: string;
    readonly number: number;
    readonly label: string;
    readonly optional: boolean;
    readonly inner: Message<unknown> | undefined;
  }[];
  /** The message as an array, to nest or to pack. */
  toArray(value: T): unknown[];
  /** @throws FsError EPROTO */
  fromArray(value: unknown): T;
}

/** The type that a message definition describes. */
export type Of<M> = M extends Message<infer T> ? T : never;

function bad(message: string): FsError {
  return new FsError('EPROTO', message);
}

export function message<F extends Fields>(name: string, fields: F): Message<MessageOf<F>> {
  const entries = Object.entries(fields).sort((a, b) => a[1].number - b[1].number);
  const length = entries.at(-1)?.[1].number ?? 0;
  return {
    name,
    fields: entries.map(([key, { number, optional, type }]) => {
      return { name: key, number, label: type.label, optional, inner: type.inner };
    }),
    toArray(value) {
      const out: unknown[] = new Array(length).fill(null);
      let used = 0;
      for (const [key, field] of entries) {
        const item = (value as Record<string, unknown>)[key];
        if (item === undefined) continue;
        out[field.number - 1] = field.type.pack === undefined ? item : field.type.pack(item);
        used = field.number;
      }
      out.length = used;
      return out;
    },
    fromArray(value) {
      if (!Array.isArray(value)) throw bad(`${name}: not an array`);
      const out: Record<string, unknown> = {};
      for (const [key, field] of entries) {
        const item: unknown = value[field.number - 1];
        if (item === undefined || item === null) {
          if (!field.optional) throw bad(`${name}.${key} is missing`);
          continue;
        }
        try {
          out[key] = field.type.unpack(item);
        } catch (cause) {
          if (cause instanceof FsError)
            throw new FsError('EPROTO', `${name}.${key}: ${cause.message}`, { cause });
          throw cause;
        }
      }
      return out as MessageOf<F>;
    },
  };
}

// No shared structures, so each frame can be decoded alone. msgpackr decodes int64 values as bigints: as numbers it
// would round them before anyone knows which field they are for.
const packr = new Packr({ useRecords: false, int64AsType: 'bigint', encodeUndefinedAsNil: true });

/** The bytes of a message. The result stays valid: it is not a view of a buffer that msgpackr uses again. */
export function encode<T>(type: Message<T>, value: T): Buffer {
  return packr.pack(type.toArray(value));
}

/**
 * @param body exactly one message. Byte fields of the result may be views into it.
 * @throws FsError EPROTO
 */
export function decode<T>(type: Message<T>, body: Uint8Array): T {
  let raw: unknown;
  try {
    checkBody(body);
    raw = packr.unpack(body);
  } catch (cause) {
    const why = cause instanceof FsError ? cause.message : 'not MessagePack';
    throw new FsError('EPROTO', `${type.name}: ${why}`, { cause });
  }
  return type.fromArray(raw);
}

/**
 * We never send small integers as int64, but other peers may. A value that is rounded here is 2^53 or more, and its
 * caller refuses it.
 */
function asNumber(value: unknown): unknown {
  return typeof value === 'bigint' ? Number(value) : value;
}

function integer(label: string, min: number, max: number): FieldType<number> {
  return {
    label,
    unpack(value) {
      const number = asNumber(value);
      if (typeof number !== 'number' || !Number.isInteger(number) || number < min || number > max) {
        throw bad(`not a ${label}`);
      }
      // A float64 may be minus zero, which is an integer to JavaScript. No field means that.
      return number === 0 ? 0 : number;
    },
  };
}

export const u8 = integer('u8', 0, 0xff);
export const u16 = integer('u16', 0, 0xffff);
export const u32 = integer('u32', 0, 0xffff_ffff);
/** Non-negative safe integer: sizes, offsets, counters. */
export const uint = integer('uint', 0, Number.MAX_SAFE_INTEGER);
/** Safe integer of either sign. */
export const int = integer('int', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);

/** 0 to 2^63 - 1. From 2^53 on it is an int64 on the wire, sent only to a peer with FEATURE.lockOffsets. */
export const lockOffset: FieldType<LockOffset> = {
  label: 'lockOffset',
  unpack(value) {
    if (typeof value !== 'bigint') return uint.unpack(value);
    if (value < 0n || value > LOCK_OFFSET_MAX) throw bad('not a lockOffset');
    return lockOffsetOf(value);
  },
};

export const bool: FieldType<boolean> = {
  label: 'bool',
  unpack(value) {
    if (typeof value !== 'boolean') throw bad('not a bool');
    return value;
  },
};

/** Of an optional field that says something only if it is there. */
const yes: FieldType<true> = {
  label: 'true',
  unpack(value) {
    if (value !== true) throw bad('not true');
    return value;
  },
};

/** A non-negative integer with a brand. */
export function branded<T extends number>(label: string): FieldType<T> {
  return { label, unpack: (value) => uint.unpack(value) as T };
}

export const fid: FieldType<Fid> = {
  label: 'fid',
  unpack(value) {
    const number = asNumber(value);
    if (typeof number !== 'number' || !Number.isSafeInteger(number) || number <= 0) throw bad('not a fid');
    return number as Fid;
  },
};

/** Text of at most maxLength UTF-16 units. */
export function text<T extends string = string>(maxLength: number): FieldType<T> {
  return {
    label: `text<=${maxLength}`,
    unpack(value) {
      if (typeof value !== 'string' || value.length > maxLength)
        throw bad(`not text of at most ${maxLength}`);
      return value as T;
    },
  };
}

/** One of a closed set of words. */
export function oneOf<T extends string>(...words: readonly T[]): FieldType<T> {
  return {
    label: words.join('|'),
    unpack(value) {
      if (!words.includes(value as T)) throw bad(`not one of ${words.join(', ')}`);
      return value as T;
    },
  };
}

/** A view may keep this much more memory alive than twice its own size. */
const VIEW_WASTE_BYTES = 1024;

/**
 * Bytes of at most maxLength. Decoded as a view into the frame's body, unless the view would keep much more memory
 * alive than its own size: fields that nobody knows, and whatever else arrived with the body.
 */
export function bytes(maxLength: number): FieldType<Uint8Array> {
  return {
    label: `bytes<=${maxLength}`,
    unpack(value) {
      if (!(value instanceof Uint8Array) || value.length > maxLength)
        throw bad(`not bytes of at most ${maxLength}`);
      return value.buffer.byteLength > value.length * 2 + VIEW_WASTE_BYTES ? Uint8Array.from(value) : value;
    },
  };
}

const FORBIDDEN_IN_NAME = /[\0/\u0100-\uffff]/;

/** A file name; see Name. Refuses '.' and '..', which the kernel handles. */
export const name: FieldType<Name> = {
  label: 'name',
  unpack(value) {
    if (typeof value !== 'string' || value.length === 0) throw bad('not a name');
    if (value.length > NAME_MAX || FORBIDDEN_IN_NAME.test(value)) throw bad('not a name');
    if (value === '.' || value === '..') throw bad('a name may not be . or ..');
    return value as Name;
  },
};

export function list<T>(of: FieldType<T>, maxLength: number): FieldType<readonly T[]> {
  return {
    label: `list of ${of.label}`,
    inner: of.inner,
    pack: (value) => (of.pack === undefined ? value : value.map((item) => of.pack?.(item))),
    unpack(value) {
      if (!Array.isArray(value) || value.length > maxLength) throw bad(`not a list of at most ${maxLength}`);
      return value.map((item) => of.unpack(item));
    },
  };
}

/** A message as a field of another. */
export function nested<T>(type: Message<T>): FieldType<T> {
  return {
    label: type.name,
    inner: type,
    pack: (value) => type.toArray(value),
    unpack: (value) => type.fromArray(value),
  };
}

export const timespec: FieldType<Timespec> = {
  label: 'timespec',
  pack: (value) => [value.sec, value.nsec],
  unpack(value) {
    if (!Array.isArray(value) || value.length !== 2) throw bad('not a timespec');
    const sec = int.unpack(value[0]);
    const nsec = u32.unpack(value[1]);
    if (nsec > 999_999_999) throw bad('nanoseconds out of range');
    return { sec, nsec };
  },
};

const AttrMessage = message('Attr', {
  fid: req(1, fid),
  mode: req(2, u32),
  nlink: req(3, u32),
  uid: req(4, u32),
  gid: req(5, u32),
  rdev: req(6, u32),
  sizeBytes: req(7, uint),
  blocks: req(8, uint),
  atime: req(9, timespec),
  mtime: req(10, timespec),
  ctime: req(11, timespec),
  btime: req(12, timespec),
  noXattrs: opt(13, yes),
});
export const attr: FieldType<Attr> = nested(AttrMessage);
