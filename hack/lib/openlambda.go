// Makes and removes SOCK sandboxes of OpenLambda by OpenLambda's own packages, forked from the Zygote of its import cache,
// and tells of them as test/bench/pod_bench.cpp does. hack/lib/openlambda builds it inside a copy of OpenLambda's module.
//
//	openlambda FOLDER NAME PACKAGE,… OUT MODE…      MODE: start N | churn WORKERS SECONDS
//
// FOLDER/lambda is the root file system of all sandboxes, FOLDER/code the function, which answers "up". A start counts
// from the request of a sandbox until its answer; a removal ends when the processes are dead and the cgroup is gone.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-lambda/open-lambda/go/common"
	"github.com/open-lambda/open-lambda/go/worker/lambda/packages"
	"github.com/open-lambda/open-lambda/go/worker/lambda/zygote"
	"github.com/open-lambda/open-lambda/go/worker/sandbox"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// Of the whole machine since boot, without idle and iowait; a tick of proc(5) is 10 ms.
func machineCPUMs() (sum float64) {
	line, _, _ := strings.Cut(string(must(os.ReadFile("/proc/stat"))), "\n")
	for i, field := range strings.Fields(line) {
		if (i >= 1 && i <= 3) || i == 6 || i == 7 {
			sum += must(strconv.ParseFloat(field, 64)) * 10
		}
	}
	return sum
}

type bench struct {
	folder  string
	modules []string
	pool    sandbox.SandboxPool
	scratch *common.DirMaker
	zygotes zygote.ZygoteProvider
}

func open(folder string, modules []string) *bench {
	if err := common.LoadDefaults(folder); err != nil {
		panic(err)
	}
	if err := os.MkdirAll(common.Conf.Worker_dir, 0700); err != nil {
		panic(err)
	}
	// A root that imports nothing, and below it one Zygote with all of the packages.
	common.Conf.Import_cache_tree = map[string]any{"packages": []string{},
		"children": []any{map[string]any{"packages": modules}}}
	b := &bench{folder: folder, modules: modules}
	b.scratch = must(common.NewDirMaker("scratch", common.Conf.Storage.Scratch.Mode()))
	code := must(common.NewDirMaker("code", common.Conf.Storage.Code.Mode()))
	b.pool = must(sandbox.SandboxPoolFromConfig("sandboxes", common.Conf.Mem_pool_mb))
	tracer := must(packages.NewDepTracer(folder + "/worker/dep-trace.json"))
	puller := must(packages.NewPackagePuller(b.pool, tracer))
	b.zygotes = must(zygote.NewZygoteProvider(code, b.scratch, b.pool, puller))
	return b
}

// One sandbox from its request to its end: its phases in ms.
func (b *bench) one() map[string]float64 {
	begin := time.Now()
	meta := &sandbox.SandboxMeta{Runtime: common.RT_PYTHON, Installs: b.modules}
	sb := must(b.zygotes.Create(b.pool, true, b.folder+"/code", b.scratch.Make("f"), meta))
	created := time.Now()
	response := must(sb.Client().Post("http://sandbox/run/f", "application/json", nil))
	body := string(must(io.ReadAll(response.Body)))
	response.Body.Close()
	answered := time.Now()
	if body != `"up"` {
		panic("the function answered " + body)
	}
	sb.Destroy("measured")
	gone := time.Now()
	return map[string]float64{"sandbox": ms(created.Sub(begin)), "answer": ms(answered.Sub(created)),
		"total": ms(answered.Sub(begin)), "teardown": ms(gone.Sub(answered))}
}

func (b *bench) run(workers int, more func(done int) bool) (phases map[string][]float64, pods int) {
	phases = map[string][]float64{}
	var mutex sync.Mutex
	var all sync.WaitGroup
	for range workers {
		all.Add(1)
		go func() {
			defer all.Done()
			for done := 0; more(done); done++ {
				times := b.one()
				mutex.Lock()
				for phase, value := range times {
					phases[phase] = append(phases[phase], value)
				}
				pods++
				mutex.Unlock()
			}
		}()
	}
	all.Wait()
	return phases, pods
}

func main() {
	folder, name, modules, words := os.Args[1], os.Args[2], strings.Split(os.Args[3], ","), os.Args[5:]
	out := must(os.OpenFile(os.Args[4], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0644)) // sandboxes write to our stdout
	b := open(folder, modules)
	b.one() // installs the packages and makes the Zygotes
	for len(words) > 0 {
		result := map[string]any{"mode": words[0], "runtime": name}
		count := must(strconv.Atoi(words[1]))
		if words[0] == "start" {
			result["phases"], _ = b.run(1, func(done int) bool { return done < count })
			words = words[2:]
		} else {
			seconds := time.Duration(must(strconv.Atoi(words[2]))) * time.Second
			begin, cpu := time.Now(), machineCPUMs()
			phases, pods := b.run(count, func(int) bool { return time.Since(begin) < seconds })
			result["workers"], result["phases"] = count, phases
			result["pods_per_s"] = float64(pods) / time.Since(begin).Seconds()
			result["machine_cpu_ms_per_pod"] = (machineCPUMs() - cpu) / float64(pods)
			words = words[3:]
		}
		fmt.Fprintln(out, string(must(json.Marshal(result))))
	}
	b.zygotes.Cleanup()
	b.pool.Cleanup()
}
