import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, isNinelivesError, NinelivesError, unreachable } from '../../src/common/errors.js';

const page = readFileSync(new URL('../../docs/reference/errors.md', import.meta.url), 'utf8');
const sections = new Map(
  page
    .split(/^## /m)
    .slice(1)
    .map((section) => [section.slice(0, section.indexOf('\n')).trim(), section]),
);

describe('docs/reference/errors.md', () => {
  it('has a section for each code, and none for what is no code', () => {
    expect(new Set(sections.keys())).toEqual(new Set(Object.keys(ERROR_CODES)));
  });

  it.each(Object.entries(ERROR_CODES))(
    'tells of %s what it means, why, what to do, and its exit status',
    (code, status) => {
      const section = sections.get(code) ?? '';
      for (const label of ['Meaning', 'Usual cause', 'What to do'])
        expect(section).toMatch(new RegExp(`^- ${label}: \\S.*\\.$`, 'm'));
      expect(section).toMatch(new RegExp(`^- Exit status: ${status}$`, 'm'));
    },
  );

  it('explains each exit status', () => {
    for (const status of new Set(Object.values(ERROR_CODES)))
      expect(page).toMatch(new RegExp(`^\\| ${status} \\| \\S`, 'm'));
  });
});

describe('NinelivesError', () => {
  it('carries code, fix, cause and exit status', () => {
    const cause = new Error('why');
    const error = new NinelivesError('NL_NO_SPACE', 'full', { fix: 'free some', cause });
    expect(error).toMatchObject({ code: 'NL_NO_SPACE', message: 'full', fix: 'free some', cause, exitStatus: 3 });
    expect(isNinelivesError(error)).toBe(true);
    expect(isNinelivesError(error, 'NL_NO_SPACE')).toBe(true);
    expect(isNinelivesError(error, 'NL_USAGE')).toBe(false);
    expect(isNinelivesError(new Error('other'))).toBe(false);
  });

  it('counts a case that nobody handled as a defect', () => {
    expect(() => unreachable('new kind' as never)).toThrow(expect.objectContaining({ code: 'NL_INTERNAL' }));
  });
});
