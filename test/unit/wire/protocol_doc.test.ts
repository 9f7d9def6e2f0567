/** docs/PROTOCOL.md lists every operation, and its tables of messages are those of the schemas. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import { ErrorReply } from '../../../src/wire/operation.js';
import { FAMILIES, OPERATIONS } from '../../../src/wire/operations.js';
import type { Message } from '../../../src/wire/schema.js';
import { assertPrinted } from '../../fixtures/generated_page.js';

function fieldsOf(type: Message<unknown>): string {
  if (type.fields.length === 0) return 'empty';
  return type.fields
    .map(({ name, number, label, optional }) => `${number} ${name}${optional ? '?' : ''}: \`${label}\``)
    .join('<br>')
    .replaceAll('|', '\\|');
}

/** Messages that stand within others, each once, in the order they are met. */
function innerOf(types: readonly Message<unknown>[]): Message<unknown>[] {
  const found = new Set<Message<unknown>>();
  const look = (type: Message<unknown>): void => {
    for (const { inner } of type.fields) {
      if (inner === undefined || found.has(inner)) continue;
      found.add(inner);
      look(inner);
    }
  };
  for (const type of types) look(type);
  return [...found];
}

function tables(): string {
  const lines: string[] = [];
  for (const { name, operations } of FAMILIES) {
    lines.push('', `### ${name}`, '| opcode | operation | request | reply |', '|---|---|---|---|');
    for (const { opcode, name: operation, modifies, request, reply } of operations) {
      const mark = modifies ? ' *' : '';
      lines.push(`| ${opcode} | ${operation}${mark} | ${fieldsOf(request)} | ${fieldsOf(reply)} |`);
    }
  }
  const types = [...OPERATIONS.values()].flatMap(({ request, reply }) => [request, reply]);
  lines.push('', '### within others', '| message | fields |', '|---|---|');
  for (const type of [...innerOf(types), ErrorReply]) lines.push(`| ${type.name} | ${fieldsOf(type)} |`);
  return `${lines.join('\n')}\n\n`;
}

test('the tables of messages are those of the schemas', () => {
  assertPrinted('PROTOCOL.md', 'messages', tables());
});

test('every operation stands in the list, with its mark', () => {
  const page = readFileSync(join(packageRoot(), 'docs', 'PROTOCOL.md'), 'utf8');
  const listed = [...page.matchAll(/^\| (\d+) \| ([A-Z_]+)( \*)? \| [^|]*\|$/gm)].map(
    (row) => `${row[1]} ${row[2]}${row[3] ?? ''}`,
  );
  const operations = [...OPERATIONS.values()].map(
    ({ opcode, name, modifies }) => `${opcode} ${name}${modifies ? ' *' : ''}`,
  );
  assert.deepEqual(listed, operations);
});
