package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"strconv"
)

// A row is one line of the CSV file: a window of keys and how the process was
// at its end.
type row struct {
	phase   string
	keys    int     // so far
	seconds float64 // since the phase began
	rate    float64 // keys/s in this window
	now     usage
	peak    usage // in this window
	disk    uint64
}

var header = []string{"phase", "keys", "seconds", "keys_per_s",
	"heap_alloc", "heap_inuse", "heap_alloc_peak", "heap_inuse_peak", "rss", "rss_peak", "rss_anon_peak", "disk"}

func (r *row) encode() []string {
	fields := []string{r.phase, strconv.Itoa(r.keys), fmt.Sprintf("%.3f", r.seconds), fmt.Sprintf("%.0f", r.rate)}
	for _, n := range []uint64{r.now.heap, r.now.inuse, r.peak.heap, r.peak.inuse, r.now.rss, r.peak.rss, r.peak.anon, r.disk} {
		fields = append(fields, strconv.FormatUint(n, 10))
	}
	return fields
}

func decodeRow(fields []string) (row, error) {
	r := row{phase: fields[0]}
	numbers := make([]float64, len(fields))
	for i, f := range fields[1:] {
		var err error
		if numbers[i+1], err = strconv.ParseFloat(f, 64); err != nil {
			return r, fmt.Errorf("column %s: %w", header[i+1], err)
		}
	}
	r.keys, r.seconds, r.rate = int(numbers[1]), numbers[2], numbers[3]
	for i, to := range []*uint64{&r.now.heap, &r.now.inuse, &r.peak.heap, &r.peak.inuse, &r.now.rss, &r.peak.rss, &r.peak.anon, &r.disk} {
		*to = uint64(numbers[4+i])
	}
	return r, nil
}

// A table keeps the rows and writes each to the CSV file at once, so that what
// a run found out is there even when it does not come to its end.
type table struct {
	rows []row
	file *os.File
	csv  *csv.Writer
}

func createTable(path string) (*table, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	t := &table{file: f, csv: csv.NewWriter(f)}
	return t, t.write(header)
}

func (t *table) add(r row) error {
	t.rows = append(t.rows, r)
	return t.write(r.encode())
}

func (t *table) write(fields []string) error {
	_ = t.csv.Write(fields) // Error tells
	t.csv.Flush()
	return t.csv.Error()
}

func (t *table) close() error { return t.file.Close() }

// readRows reads a CSV file that a run wrote.
func readRows(path string) ([]row, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := csv.NewReader(f)
	lines.FieldsPerRecord = len(header)
	var rows []row
	for n := 1; ; n++ {
		fields, err := lines.Read()
		if err == io.EOF {
			return rows, nil
		}
		if n == 1 && err == nil {
			continue // the header
		}
		var r row
		if err == nil {
			r, err = decodeRow(fields)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
		rows = append(rows, r)
	}
}

// ofPhase returns the rows of one phase.
func ofPhase(rows []row, phase string) []row {
	var of []row
	for _, r := range rows {
		if r.phase == phase {
			of = append(of, r)
		}
	}
	return of
}

// phases returns the names of the phases, in their order.
func phases(rows []row) []string {
	var names []string
	for i, r := range rows {
		if i == 0 || r.phase != rows[i-1].phase {
			names = append(names, r.phase)
		}
	}
	return names
}
