package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/ipfs/go-ds-crdt/bench/result"
)

// outcome is what became of a job.
type outcome struct {
	job
	Seconds  float64         `json:"seconds"`           // of the whole run, also of what is not measured
	TimedOut bool            `json:"timedOut,omitzero"` // it was killed, and found nothing
	Error    string          `json:"error,omitempty"`
	Metrics  []result.Metric `json:"metrics,omitempty"`
}

// runAll runs the jobs one by one. When it is interrupted, what there is counts.
func (c config) runAll(ctx context.Context, b builds, jobs []job) ([]outcome, error) {
	p := newProgress(os.Stderr, len(jobs))
	defer p.finish()
	var outcomes []outcome
	for _, j := range jobs {
		p.begin(j)
		o := c.run(ctx, b, j)
		if ctx.Err() != nil {
			return outcomes, ctx.Err()
		}
		outcomes = append(outcomes, o)
		p.done()
	}
	return outcomes, nil
}

func (c config) run(ctx context.Context, b builds, j job) outcome {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	start := time.Now()
	metrics, err := c.measure(ctx, b, j)
	o := outcome{job: j, Seconds: time.Since(start).Seconds(), Metrics: metrics}
	if o.TimedOut = errors.Is(ctx.Err(), context.DeadlineExceeded); o.TimedOut {
		err = fmt.Errorf("killed after %s", c.timeout)
	}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}

func (c config) measure(ctx context.Context, b builds, j job) ([]result.Metric, error) {
	var complaint bytes.Buffer
	command := exec.CommandContext(ctx, b.program(j.Side), c.args(j)...)
	command.Env = append(os.Environ(), "TMPDIR="+b.dir) // where what a killed one leaves is removed
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	var m result.Measured
	err = json.Unmarshal(out, &m)
	return m.Metrics, err
}

func (c config) args(j job) []string {
	return []string{
		"-scenario=" + j.Scenario, "-store=" + j.Store,
		fmt.Sprintf("-raw=%t", j.Side == bare), fmt.Sprintf("-quick=%t", c.quick),
	}
}

// failures are the runs that did not work. That the released module is too slow is a
// finding, not a failure.
func failures(outcomes []outcome) error {
	var errs []error
	for _, o := range outcomes {
		if o.Error != "" && !(o.TimedOut && o.Side == theirs) {
			errs = append(errs, fmt.Errorf("failed: %s: %s", o.job, o.Error))
		}
	}
	return errors.Join(errs...)
}

func writeJSON(file string, outcomes []outcome) error {
	text, err := json.MarshalIndent(outcomes, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
