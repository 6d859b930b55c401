"""Runs recipes: models behind the names, a plan, tensors streamed through a method, a version.

gathering, opener, inputs, versioned      from names to opened models, each of them a version
presented, fitting, stacking              what the engine is shown of them: fitted, cut, stacked
layer_config                              the configuration of what was cut and stacked
planned, plan_tasks, plan_cost, plan      the work, its cost, and all problems before a byte is read
execute, part_writers, single_thread      chunks through statistics and methods, on threads
sinks, shards, gates                      cast, hashed, written with a journal, checked
beside, merging                           the files beside the weights; from request to version
transforming                              models made of others in another form
verify, diff                              the same bytes again; how far two versions are apart
in_memory                                 the same engine on tensors at hand
"""
