package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestTSVRoundTrip(t *testing.T) {
	pairs := []pair{
		{"/plain", "text with blanks"},
		{"/empty", ""},
		{"/key with\ttab", "tab\tnewline\nreturn\rbackslash\\"},
		{"/quotes", `"both" 'kinds' and an escaped \"`},
		{"/unicode/☃", "snowman ☃, zero width \u200b, \U0001F600"},
		{"/binary", "\x00\xff\xfe\x80 \\xff"},
	}
	var file bytes.Buffer
	if n, err := writeTSV(&file, withoutErrors(pairs)); err != nil || n != len(pairs) {
		t.Fatal(n, err)
	}
	if lines := strings.Count(file.String(), "\n"); lines != len(pairs) {
		t.Fatalf("%d lines for %d pairs:\n%s", lines, len(pairs), &file)
	}
	got, err := collect(file.String())
	must(t, err)
	if !slices.Equal(got, pairs) {
		t.Fatalf("got %q, want %q", got, pairs)
	}
}

func TestTSVIsLenient(t *testing.T) {
	got, err := collect("\r\nno/slash\tsays \"hi\"\r\n\n/last\tno newline")
	must(t, err)
	if want := []pair{{"/no/slash", `says "hi"`}, {"/last", "no newline"}}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestTSVErrorsNameTheLine(t *testing.T) {
	for input, complaint := range map[string]string{
		"/ok\tv\nno tab":      "line 2: expected a key, a tab and a value",
		"/k\tbad \\escape\n":  "line 1: bad escape sequence",
		"/k\ttrailing \\":     "line 1: bad escape sequence",
		"\n\n/\tv":            "line 3: \"/\" names no key",
		"/\\xff\tv":           "line 1: key \"/\\xff\" is not UTF-8",
		"/k\traw \xff bytes":  "line 1: \"raw \\xff bytes\" is not UTF-8",
		"\tvalue without key": "line 1: \"\" names no key",
	} {
		if _, err := collect(input); err == nil || !strings.HasPrefix(err.Error(), complaint) {
			t.Errorf("%q: got %v, want %s", input, err, complaint)
		}
	}
}

func collect(file string) (pairs []pair, err error) {
	for p, err := range readTSV(strings.NewReader(file)) {
		if err != nil {
			return pairs, err
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}
