// Package result is the language in which the program that measures and the one that
// compares talk: JSON on the stdout of the first.
package result

// Scenario is one thing that can be measured.
type Scenario struct {
	Name  string `json:"name"`
	About string `json:"about"`
	Raw   bool   `json:"raw"` // it can be measured on the bare store too
}

// Metric is one figure of a scenario.
type Metric struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Better Better  `json:"better"`
}

// Better says which way a metric improves.
type Better string

// The two ways.
const (
	Higher Better = "higher"
	Lower  Better = "lower"
)

// Measured is what one run of a scenario found.
type Measured struct {
	Scenario string   `json:"scenario"`
	Store    string   `json:"store"`
	Metrics  []Metric `json:"metrics"`
}
