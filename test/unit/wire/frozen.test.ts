/**
 * Frozen frames: what released builds put on the wire, byte for byte (test/fixtures/golden/wire_v1.json). Every later
 * build reads them, and writes the same bytes for the same values, whatever optional fields messages have got since.
 *
 * A frame that a release has sent is never changed. Those of later builds stand behind them in the same file, and may be taken
 * out again until a release carries them (releases.ts).
 * HOLDFAST_GOLDEN=write adds frames of operations that the file lacks, and of messages that have got more fields.
 */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import type { Transno, Xid } from '../../../src/base/ids.js';
import { decodeHeader, encodeHeader, HEADER_SIZE, KIND, type Kind } from '../../../src/wire/header.js';
import { ErrorReply } from '../../../src/wire/operation.js';
import { type AnyOperation, OPERATIONS } from '../../../src/wire/operations.js';
import { decode, encode, type Message } from '../../../src/wire/schema.js';
import { RELEASE_0_1 } from '../../fixtures/releases.js';

/** As it stands in the file. Bytes are {"hex": ...}. */
interface Frozen {
  readonly name: string;
  readonly header: Readonly<Record<string, number>>;
  readonly body: unknown;
  readonly bulk: string;
  readonly frame: string;
}

const PATH = join(packageRoot(), 'test', 'fixtures', 'golden', RELEASE_0_1.frames);

function readFrozen(): Frozen[] {
  return JSON.parse(readFileSync(PATH, 'utf8')) as Frozen[];
}

/** As JSON shows it. */
function shown(value: unknown): unknown {
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString('hex') };
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) => (item === undefined ? [] : [[key, shown(item)]])),
  );
}

/** The value that JSON shows. */
function meant(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(meant);
  if (typeof value !== 'object' || value === null) return value;
  if ('hex' in value && typeof value.hex === 'string') return Buffer.from(value.hex, 'hex');
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, meant(item)]));
}

/** The message of a frame, found as a receiver finds it. */
function messageOf(header: Pick<Frozen['header'], string>): Message<unknown> {
  const operation = OPERATIONS.get(header.opcode ?? 0);
  assert.ok(operation !== undefined, `opcode ${header.opcode} is known`);
  if (header.kind !== KIND.reply) return operation.request;
  return header.errno === 0 ? operation.reply : ErrorReply;
}

test('every frozen frame is read as it was meant', () => {
  for (const { name, header, body, bulk, frame } of readFrozen()) {
    const bytes = Buffer.from(frame, 'hex');
    const read = decodeHeader(bytes);
    assert.deepEqual({ ...read }, header, name);
    const bodyEnd = HEADER_SIZE + read.bodyLength;
    assert.deepEqual(
      [
        shown(decode(messageOf(header), bytes.subarray(HEADER_SIZE, bodyEnd))),
        bytes.subarray(bodyEnd).toString('hex'),
      ],
      [body, bulk],
      name,
    );
    assert.equal(OPERATIONS.get(read.opcode)?.name, name.split(' ')[0], 'an opcode keeps its operation');
  }
});

test('the values of every frozen frame are written as the same bytes', () => {
  for (const { name, header, body, bulk, frame } of readFrozen()) {
    const written = Buffer.concat([
      encodeHeader(decodeHeader(Buffer.from(frame, 'hex'))),
      encode(messageOf(header), meant(body)),
      Buffer.from(bulk, 'hex'),
    ]);
    assert.equal(written.toString('hex'), frame, name);
  }
});

test('every operation, with all the fields of its messages, is in the frozen set', () => {
  const frozen = readFrozen();
  const names = new Set(frozen.map(({ name }) => name));
  const lacking = samples().filter(({ name }) => !names.has(name));
  if (process.env.HOLDFAST_GOLDEN === 'write') {
    const lines = [...frozen, ...lacking].map((sample) => JSON.stringify(sample));
    writeFileSync(PATH, `[\n${lines.join(',\n')}\n]\n`);
    return;
  }
  assert.deepEqual(
    lacking.map(({ name }) => name),
    [],
    'HOLDFAST_GOLDEN=write adds them',
  );
});

// What follows makes frames for the file; frames that are in it already do not depend on it.

function samples(): Frozen[] {
  const made: Frozen[] = [];
  for (const operation of OPERATIONS.values()) {
    const { name, notice, request, reply } = operation;
    const kind = notice ? KIND.notice : KIND.request;
    made.push(...framesOf(`${name} ${notice ? 'notice' : 'request'}`, operation, kind, request));
    if (!notice) made.push(...framesOf(`${name} reply`, operation, KIND.reply, reply));
  }
  const [first] = OPERATIONS.values();
  assert.ok(first !== undefined);
  made.push(...framesOf(`${first.name} reply: refused`, first, KIND.reply, ErrorReply, 11));
  return made;
}

/** With every field, and with none that may be absent. */
function framesOf(
  name: string,
  { opcode, modifies }: AnyOperation,
  kind: Kind,
  type: Message<unknown>,
  errno = 0,
): Frozen[] {
  const optional = type.fields.some((field) => field.optional);
  return (optional ? [true, false] : [true]).map((full) => {
    const body = encode(type, valuesOf(type, full, { next: opcode }));
    const bulk =
      /^(WRITE request|BATCH request|READ reply)$/.test(name) && full
        ? Buffer.from('bulk\0\xff', 'latin1')
        : Buffer.alloc(0);
    const header = {
      version: 1,
      kind,
      opcode,
      flags: kind === KIND.request && modifies && full ? 2 : 0,
      errno,
      xid: (kind === KIND.notice ? 0 : 2 ** 32 + opcode) as Xid,
      ackXidOrCommitted: kind === KIND.reply ? 3 * 2 ** 32 + 5 : 2 ** 32 + 1,
      transno: (kind === KIND.reply && modifies && errno === 0 ? 3 * 2 ** 32 + 7 : 0) as Transno,
      connCount: 2,
      bodyLength: body.length,
      bulkLength: bulk.length,
    };
    return {
      name: `${name}, ${full ? `${countOf(type)} fields` : 'required fields only'}`,
      header,
      body: shown(decode(type, body)),
      bulk: bulk.toString('hex'),
      frame: Buffer.concat([encodeHeader(header), body, bulk]).toString('hex'),
    };
  });
}

/** Of a message with those within it: more of them is another shape. */
function countOf(type: Message<unknown>): number {
  return type.fields.reduce((sum, { inner }) => sum + 1 + (inner === undefined ? 0 : countOf(inner)), 0);
}

/** Each number in a frame is another one, so that fields that change places are seen. */
interface Counter {
  next: number;
}

function valuesOf(type: Message<unknown>, full: boolean, counter: Counter): Record<string, unknown> {
  return Object.fromEntries(
    type.fields
      .filter(({ optional }) => full || !optional)
      .map(({ name, label, inner }) => [name, sampleOf(label, inner, full, counter)]),
  );
}

function sampleOf(
  label: string,
  inner: Message<unknown> | undefined,
  full: boolean,
  counter: Counter,
): unknown {
  if (label.startsWith('list of ')) {
    const item = (): unknown => sampleOf(label.slice('list of '.length), inner, full, counter);
    return full ? [item(), item()] : [];
  }
  if (inner !== undefined) return valuesOf(inner, full, counter);
  const number = counter.next;
  counter.next += 1;
  if (label.startsWith('text<=')) return `text ${number} ä`;
  if (label.startsWith('bytes<=')) return Buffer.from([number & 0xff, 0, 0xff]);
  if (label.includes('|')) return label.split('|')[number % label.split('|').length];
  switch (label) {
    case 'u8':
    case 'u16':
      return number & 0x7f;
    case 'u32':
      return 0x8000_0000 + number;
    case 'bool':
      return number % 2 === 0;
    case 'true':
      return true;
    case 'name':
      return `name\xff${number}`;
    case 'timespec':
      return { sec: number % 2 === 0 ? 1_800_000_000 + number : -number, nsec: 999_999_000 + number };
    default:
      // uint, int, fid and everything with a brand: as far as they go, small ones too.
      return number % 3 === 0 ? number : 2 ** 53 - 1 - number;
  }
}
