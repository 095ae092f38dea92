package crdt_test

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	crdt "github.com/ipfs/go-ds-crdt"
	logging "github.com/ipfs/go-log/v2"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The program needs a network, so it is compiled with the modules of the
// example, which has the same one.
func TestReadmeProgramCompiles(t *testing.T) {
	const module = "examples/globaldb"
	if _, err := os.Stat(filepath.Join(module, "go.mod")); err != nil {
		t.Skip("not in a checkout: ", err)
	}
	if out, err := exec.Command("go", "-C", module, "list", "-deps", ".").CombinedOutput(); err != nil {
		t.Skipf("the example's modules are not here: %s\n%s", err, out)
	}
	program := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindStringSubmatch(readme(t))
	if program == nil {
		t.Fatal("README.md has no program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "-C", module, "vet", file).CombinedOutput(); err != nil {
		t.Fatalf("go vet: %s\n%s", err, out)
	}
	if formatted, err := format.Source([]byte(program[1])); err != nil || string(formatted) != program[1] {
		t.Fatalf("the program is not formatted: %v", err)
	}
}

func TestReadmeListsAllOptionsAndTheirDefaults(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*?) \\|").FindAllStringSubmatch(readme(t), -1)
	defaults := reflect.ValueOf(crdt.DefaultOptions()).Elem()
	fields := reflect.VisibleFields(defaults.Type())
	if len(rows) != len(fields) {
		t.Fatalf("the table has %d options, the type %d", len(rows), len(fields))
	}
	for i, f := range fields {
		name, text := rows[i][1], rows[i][2]
		if name != f.Name {
			t.Fatalf("row %d is %s, field %d is %s", i, name, i, f.Name)
		}
		if value := defaults.FieldByIndex(f.Index).Interface(); !isDefault(text, value) {
			t.Errorf("%s: README.md says %q, DefaultOptions %v", name, text, value)
		}
	}
}

// isDefault reports whether a cell of the table describes a value.
func isDefault(text string, value any) bool {
	switch v := value.(type) {
	case time.Duration:
		d, err := time.ParseDuration(text)
		return err == nil && d == v
	case int:
		digits, mebi := strings.CutSuffix(text, " MiB")
		n, err := strconv.Atoi(digits)
		if mebi {
			n <<= 20
		}
		return err == nil && n == v
	case bool:
		return text == strconv.FormatBool(v)
	case *logging.ZapEventLogger:
		return text == "go-log, `"+v.Desugar().Name()+"`"
	}
	return text == "none" && reflect.ValueOf(value).IsZero()
}

// docs/trust.md says which test holds each promise.
func TestTestsThatPromisesRestOnExist(t *testing.T) {
	text, err := os.ReadFile("docs/trust.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob("interop/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, others...)
	var tests []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, b...)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(text, -1)
	for _, name := range names {
		if !bytes.Contains(tests, slices.Concat([]byte("func "), name[1], []byte("("))) {
			t.Errorf("there is no %s", name[1])
		}
	}
	if len(names) < 20 {
		t.Errorf("%d tests are named", len(names))
	}
}

func TestReadmeLinksToFilesThatExist(t *testing.T) {
	for _, link := range regexp.MustCompile(`\]\(([^)#:\s]+)\)`).FindAllStringSubmatch(readme(t), -1) {
		if _, err := os.Stat(link[1]); err != nil {
			t.Error(err)
		}
	}
}
