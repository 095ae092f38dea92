package main

import (
	"math/rand/v2"
	"time"
)

// A region is a row of latencies.
type region int

// latencies is how long a parcel takes from one region to another at least, in ms, one way: Western
// Europe, the east and the west of the United States, East Asia, Australia.
var latencies = [...][5]int{
	{5, 45, 75, 120, 150},
	{45, 5, 35, 95, 110},
	{75, 35, 5, 60, 80},
	{120, 95, 60, 5, 55},
	{150, 110, 80, 55, 5},
}

// jitter is by what part of itself a latency may be longer.
const jitter = 0.3

func (r region) latency(to region, rng *rand.Rand) time.Duration {
	least := time.Duration(latencies[r][to]) * time.Millisecond
	return least + time.Duration(rng.Float64()*jitter*float64(least))
}
