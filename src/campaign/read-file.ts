/** From the text of a campaign file to what it means, or to an error that names the place. Pure. */
import { type Document, isMap, isNode, isScalar, LineCounter, type Pair, parseDocument } from 'yaml';
import { z } from 'zod';
import { NinelivesError } from '../common/errors.js';
import { nearest } from '../common/nearest.js';
import { type CampaignFile, campaignFileSchema, objectionsTo } from './file.js';
import { stepsOf } from './mechanisms.js';

type Path = readonly PropertyKey[];

/**
 * @param name of the file, for messages
 * @throws NL_CAMPAIGN_INVALID with one line for each thing that is wrong: `file:line:column: what`
 */
export function readCampaignFile(text: string, name: string): CampaignFile {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${name}:${line}:${col}`;
  };
  if (document.errors.length > 0) refuse(document.errors.map(({ pos, message }) => `${at(pos[0])}: ${message}`));
  const parsed = campaignFileSchema.safeParse(document.toJS());
  const place = (path: Path, key?: string): string => at(offsetOf(document, path, key));
  if (!parsed.success) {
    refuse(parsed.error.issues.flatMap((issue) => tell(issue, document.toJS(), place)));
  }
  const objections = objectionsTo(parsed.data, stepsOf);
  if (objections.length > 0) refuse(objections.map(({ path, message }) => `${place(path)}: ${message}`));
  return parsed.data;
}

function refuse(complaints: readonly string[]): never {
  throw new NinelivesError('NL_CAMPAIGN_INVALID', [...new Set(complaints)].join('\n'), {
    fix: 'change the file; docs/reference/campaign.md describes every field',
  });
}

/** The text with other values of some top-level fields; comments and order are kept. */
export function withValues(text: string, values: Readonly<Record<string, string | number>>): string {
  const document = parseDocument(text);
  for (const [key, value] of Object.entries(values)) document.set(key, value);
  return document.toString({ lineWidth: 0 });
}

/** The schema of campaign files as JSON Schema, for editors. */
export const campaignJsonSchema = (): object => ({
  title: 'Campaign of ninelives',
  ...z.toJSONSchema(campaignFileSchema, { io: 'input' }),
});

function tell(issue: z.core.$ZodIssue, data: unknown, place: (path: Path, key?: string) => string): string[] {
  const where = issue.path.length === 0 ? 'the file' : issue.path.join('.');
  switch (issue.code) {
    case 'unrecognized_keys': {
      const known = knownFields(issue.path, data);
      return issue.keys.map((key) => {
        const meant = nearest(key, known);
        const hint = meant === undefined ? `known are ${known.join(', ')}` : `did you mean "${meant}"?`;
        return `${place(issue.path, key)}: unknown field "${key}" in ${where}; ${hint}`;
      });
    }
    case 'invalid_value': {
      const meant = nearest(String(valueAt(data, issue.path)), issue.values.map(String));
      const hint = meant === undefined ? '' : `; did you mean "${meant}"?`;
      return [
        `${place(issue.path)}: ${where} must be ${issue.values.map((value) => `"${String(value)}"`).join(' or ')}${hint}`,
      ];
    }
    case 'invalid_union': {
      const types = 'discriminator' in issue ? alternatives(issue.path) : [];
      if (types.length > 0) {
        const meant = nearest(String(valueAt(data, issue.path)), types);
        const hint = meant === undefined ? '' : `; did you mean "${meant}"?`;
        return [`${place(issue.path)}: ${where} must be one of ${types.join(', ')}${hint}`];
      }
      // Each alternative objects in its own words; the last one is the written form of a size.
      const last = issue.errors.at(-1)?.[0];
      return [`${place(issue.path)}: ${where}: ${last?.message ?? issue.message}`];
    }
    default:
      return isAbsent(issue, data)
        ? [`${place(issue.path)}: ${where} is missing`]
        : [`${place(issue.path)}: ${where}: ${issue.message}`];
  }
}

const isAbsent = (issue: z.core.$ZodIssue, data: unknown): boolean =>
  issue.code === 'invalid_type' && valueAt(data, issue.path) === undefined;

const valueAt = (data: unknown, path: Path): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined,
    data,
  );

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly const?: unknown;
}

const branches = (schema: JsonSchema): readonly JsonSchema[] => [
  schema,
  ...(schema.anyOf ?? []),
  ...(schema.oneOf ?? []),
];

/** The schemas that a value at this path may have; where `data` says by its `type` which one is meant, that one only. */
function schemasAt(path: Path, data: unknown): readonly JsonSchema[] {
  let schemas: readonly JsonSchema[] = [campaignJsonSchema() as JsonSchema];
  let value = data;
  for (const key of path) {
    schemas = schemas.flatMap((schema) =>
      branches(schema).flatMap((one) => (typeof key === 'number' ? one.items : one.properties?.[String(key)]) ?? []),
    );
    value = valueAt(value, [key]);
  }
  const all = schemas.flatMap(branches);
  const type = valueAt(value, ['type']);
  const chosen = all.filter((schema) => schema.properties?.type?.const === type && type !== undefined);
  return chosen.length > 0 ? chosen : all;
}

const knownFields = (path: Path, data: unknown): string[] => [
  ...new Set(schemasAt(path, data).flatMap((schema) => Object.keys(schema.properties ?? {}))),
];

/** The values that a discriminating field may have. */
const alternatives = (path: Path): string[] =>
  schemasAt(path, undefined).flatMap((schema) => (typeof schema.const === 'string' ? [schema.const] : []));

/** Offset of what stands at `path`, or of the key `key` in it; of the nearest thing around where nothing stands there. */
function offsetOf(document: Document.Parsed, path: Path, key?: string): number {
  for (let length = path.length; length >= 0; length--) {
    const node: unknown = length === 0 ? document.contents : document.getIn(path.slice(0, length), true);
    if (!isNode(node)) continue;
    if (key !== undefined && length === path.length && isMap(node)) {
      const pair = node.items.find(({ key: found }: Pair) => isScalar(found) && found.value === key);
      if (pair !== undefined && isScalar(pair.key) && pair.key.range) return pair.key.range[0];
    }
    if (node.range) return node.range[0];
  }
  return 0;
}
